"""The training stages as data (paper table 1 and section 3.2.3). Imports nothing heavy: the command line prints it.

A row says which parts train and which losses count. Its `note` gives our choice where the paper is unclear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

VisionTraining = Literal["frozen", "last stage", "last block", "whole"]
Variant = Literal["ca_baseline", "age_vlm", "age_vlm_lm"]
PARTS: Final = ("vision encoder", "adapter", "cross-attention", "language model")


@dataclass(frozen=True)
class StageRow:
    """One training stage.

    vision_encoder: how much of the ConvNeXt trains; "last stage" is its fourth stage, "last block" only that stage's
        last block. adapter, cross_attention, language_model: True if they train. language_model means everything that
        came with Llama: embedding, self-attention, MLPs, norms, head. lm_loss, guidance_loss: True if the loss counts.
    """

    name: str
    vision_encoder: VisionTraining
    adapter: bool
    cross_attention: bool
    language_model: bool
    lm_loss: bool
    guidance_loss: bool
    note: str


STAGES: Final[dict[str, StageRow]] = {
    row.name: row
    for row in (
        StageRow("stage1", "frozen", True, True, False, True, False, "initial vision-language alignment"),
        StageRow(
            "stage2", "last stage", True, True, False, True, False,
            'the paper\'s "final block" is ConvNeXt\'s fourth stage; "last block" as option',
        ),
        StageRow(
            "stage3", "last stage", True, True, False, True, True,
            "the encoder's icon in table 1 is that of stage 1's trained parts: as stage 2, plus the guidance loss",
        ),
        StageRow(
            "stage4", "whole", True, True, True, True, False,
            "AGE-VLM: end-to-end instruction tuning; no guidance loss reaches the self-attention",
        ),
        StageRow("stage4_lm", "whole", True, True, True, True, True, "AGE-VLM-LM: the same with the guidance loss"),
        StageRow("stage3_baseline", "last stage", True, True, False, True, False, "CA-Baseline: language loss only"),
        StageRow("stage4_baseline", "whole", True, True, True, True, False, "CA-Baseline: language loss only"),
    )
}  # fmt: skip


StageStep = Literal["stage1", "stage2", "stage3", "stage4"]
STAGE_STEPS: Final[tuple[StageStep, ...]] = get_args(StageStep)
"""The four stages, in order; each trains one row of the table per variant, and all variants share the first two."""

VARIANT_ROWS: Final[dict[str, tuple[str, str]]] = {
    "ca_baseline": ("stage3_baseline", "stage4_baseline"),
    "age_vlm": ("stage3", "stage4"),
    "age_vlm_lm": ("stage3", "stage4_lm"),
}
"""Variant -> the rows of its stages 3 and 4 (paper, table 1)."""

VARIANT_NAMES: Final[dict[str, str]] = {
    "ca_baseline": "CA-Baseline",
    "age_vlm": "AGE-VLM",
    "age_vlm_lm": "AGE-VLM-LM",
}
"""Variant -> the paper's name for it."""


def stage_row(name: str) -> StageRow:
    """The row of a stage. Raises: ValueError naming the known stages."""
    if name not in STAGES:
        raise ValueError(f"stage is {name!r}; choose one of {', '.join(STAGES)}")
    return STAGES[name]


def trains(row: StageRow) -> dict[str, str]:
    """The row's first four columns as words: part -> "frozen", "trained", "last stage" or "last block"."""
    vision = "trained" if row.vision_encoder == "whole" else row.vision_encoder
    flags = (row.adapter, row.cross_attention, row.language_model)
    return {
        PARTS[0]: vision,
        **{part: "trained" if on else "frozen" for part, on in zip(PARTS[1:], flags, strict=True)},
    }
