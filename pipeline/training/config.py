"""Settings of training: the student's architecture and each stage's optimisation (paper, appendix B)."""

import itertools
import math
from typing import Literal, Self

from pydantic import Field, field_validator

from pipeline.artifacts.spec import ArtifactRef
from pipeline.config import Config
from pipeline.training.execution import Execution

GUIDANCE_FIELDS = ("guidance_weight", "guidance_schedule", "mask_cells")
"""Fields of StageConfig that have no effect in a stage without a guidance loss."""


class StudentConfig(Config):
    """Choices in the student's architecture; the rest follows from its two backbones."""

    cross_attention: Literal["layer", "in_block"] = Field(
        default="layer",
        description="cross-attention as added layers of the stack, or inside existing blocks (docs/paper-notes.md)",
    )
    cross_attention_layers: tuple[int, ...] = Field(
        default=(2, 7, 12, 17), min_length=1, description="positions of the cross-attention layers"
    )
    init: Literal["zero", "normal"] = Field(
        default="zero", description="initial values of cross-attention's output projections"
    )
    letterbox: Literal["mean", "zero", "squash"] = Field(
        default="mean", description="fit of an image into the square: padded with the mean or with zeros, or stretched"
    )
    guidance_normalisation: Literal["sum", "max"] = Field(default="sum", description="normalisation of P in eq. 3")
    guidance_reduction: Literal["mean", "sum"] = Field(
        default="mean", description="reduction of the guidance loss over the cross-attention layers"
    )


class StageConfig(Config):
    """The settings that decide the result of a stage; all are in the id of its artifact. For the rest see `Execution`.

    Defaults are those of the paper (appendix B, docs/paper-notes.md) where it has them.
    """

    epochs: int = Field(default=1, ge=1, description="passes over the pack")
    max_steps: int | None = Field(default=None, ge=1, description="stop after this many optimiser steps")
    global_batch: int = Field(default=128, ge=1, description="samples per optimiser step, over all workers")
    length_window: int = Field(
        default=8,
        ge=1,
        description="global batches whose rows are sorted by length together, so that less of a batch is padding; "
        "1 leaves them random",
    )
    tail: Literal["drop", "keep"] = Field(
        default="drop", description="the last rows, too few for a global batch: drop them, or keep a smaller last batch"
    )
    held_out: int = Field(
        default=256, ge=0, description="rows kept out of training for the held-out loss; at most 1 in 20 of the pack"
    )
    learning_rate: float = Field(default=1e-5, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW's weight decay; 0 for norms and biases")
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    warmup_ratio: float = Field(default=0.03, ge=0, le=1, description="share of the steps with a rising learning rate")
    clip_norm: float = Field(default=1.0, gt=0, description="the gradient is clipped to this norm")
    precision: Literal["fp32", "bf16", "bf16_parameters"] = Field(
        default="bf16",
        description="number format of forward and backward; bf16: autocast; bf16_parameters: bf16 weights whose fp32 "
        "masters the optimizer updates",
    )
    guidance_weight: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="weight of the guidance loss, lambda; the paper's is 1"
    )
    guidance_schedule: tuple[tuple[float, float], ...] = Field(
        default=((0.0, 1.0),),
        min_length=1,
        description="factor of guidance_weight: points (share of the stage's steps, factor), linear between them",
    )
    mask_cells: Literal["any", "half", "nearest"] = Field(
        default="any", description="rule for cells that a mask covers in part (docs/paper-notes.md)"
    )

    @field_validator("guidance_schedule")
    @classmethod
    def _rising(cls, points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        for share, factor in points:
            if not 0 <= share <= 1:
                raise ValueError(f"share {share} is not one of the stage's steps; give shares from 0 to 1")
            if not (math.isfinite(factor) and factor >= 0):
                raise ValueError(f"factor {factor} at share {share}; give finite factors from 0 on, 1 for the weight")
        for (before, _), (after, _) in itertools.pairwise(points):
            if before >= after:
                raise ValueError(f"share {after} follows share {before}; give the points by rising share, each once")
        return points

    @property
    def guidance_points(self) -> str:
        """The schedule as words: 'x 0 at 0 %, x 1 at 10 % of the steps'; '' for a constant weight."""
        if {factor for _, factor in self.guidance_schedule} == {1}:
            return ""
        return ", ".join(f"x {f:g} at {100 * s:g} %" for s, f in self.guidance_schedule) + " of the steps"

    def without_guidance(self) -> Self:
        """The same with the defaults of what only a guidance loss reads, so that it is in no unguided stage's id."""
        defaults = {name: type(self).model_fields[name].default for name in GUIDANCE_FIELDS}
        return self.model_copy(update=defaults)


class StageTask(Config):
    """The settings that the workers of a stage get, besides the commits that they read and write."""

    row: str = Field(description="row of the stage table, e.g. 'stage4_lm'")
    key: str = Field(description="the step's key in its plan, for trackers")
    recipe: str | None = Field(default=None, description="name of the recipe, for metrics")
    config: StageConfig
    execution: Execution
    student: StudentConfig | None = Field(description="stage 1 only: the student's architecture")
    seed: int
    text: str = Field(description="language backbone: path or hub name; used in stage 1")
    vision: str = Field(description="vision backbone: path or hub name; used in stage 1")
    system_prompt: str | None = Field(description="system turn of the pack's conversations; evaluation uses it too")
    store: str = Field(description="root of the artifact store")
    cache: str = Field(description="local folder for files that are downloaded from the store")
    inputs: dict[str, ArtifactRef] = Field(description="'pack', and 'parent' after stage 1")
    artifact: str = Field(description="id of the artifact that is being made, for its progress")
    unit: str = Field(description="unit of the progress")
    threads: int = Field(ge=1, description="CPU threads of torch in each worker")
    micro_batch: int = Field(ge=1, description="samples of one forward pass")
