"""The training stages as data (paper table 1 and section 3.2.3). Imports nothing heavy: the command line prints it.

Each row says what trains and which losses count. Where the paper is unclear, `note` says what we chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

VisionTraining = Literal["frozen", "last stage", "last block", "whole"]
PARTS: Final = ("vision encoder", "adapter", "cross-attention", "language model")


@dataclass(frozen=True)
class StageRow:
    """One training stage.

    vision_encoder: how much of the ConvNeXt trains; "last stage" is its fourth stage, "last block" only that stage's
        last block. adapter, cross_attention, language_model: whether they train. language_model means everything that
        Llama brought: embedding, self-attention, MLPs, norms, head. lm_loss, guidance_loss: which losses count.
    """

    name: str
    vision_encoder: VisionTraining
    adapter: bool
    cross_attention: bool
    language_model: bool
    lm_loss: bool
    guidance_loss: bool
    note: str


_UNREADABLE = "the paper's icons are unreadable here: as stage 2"
STAGES: Final[dict[str, StageRow]] = {
    row.name: row
    for row in (
        StageRow("stage1", "frozen", True, True, False, True, False, "initial vision-language alignment"),
        StageRow(
            "stage2", "last stage", True, True, False, True, False,
            'the paper\'s "final block" is ConvNeXt\'s fourth stage; "last block" as option',
        ),
        StageRow("stage3", "last stage", True, True, False, True, True, f"{_UNREADABLE}, plus the guidance loss"),
        StageRow(
            "stage4", "whole", True, True, True, True, False,
            "AGE-VLM: end-to-end instruction tuning; no guidance loss reaches the self-attention",
        ),
        StageRow("stage4_lm", "whole", True, True, True, True, True, "AGE-VLM-LM: the same with the guidance loss"),
        StageRow("stage3_baseline", "last stage", True, True, False, True, False, "CA-Baseline: language loss only"),
        StageRow("stage4_baseline", "whole", True, True, True, True, False, "CA-Baseline: language loss only"),
    )
}  # fmt: skip


def stage_row(name: str) -> StageRow:
    """The row of a stage. Raises: ValueError naming the stages there are."""
    if name not in STAGES:
        raise ValueError(f"stage is {name!r}; choose one of {', '.join(STAGES)}")
    return STAGES[name]


def trains(row: StageRow) -> dict[str, str]:
    """What the table's four columns say, as words: PARTS -> "frozen", "trained", "last stage" or "last block"."""
    vision = "trained" if row.vision_encoder == "whole" else row.vision_encoder
    flags = (row.adapter, row.cross_attention, row.language_model)
    return {
        PARTS[0]: vision,
        **{part: "trained" if on else "frozen" for part, on in zip(PARTS[1:], flags, strict=True)},
    }
