"""Settings of training: the student's architecture and each stage's optimisation (paper, appendix B)."""

from typing import Literal

from pydantic import Field

from pipeline.artifacts.spec import ArtifactRef
from pipeline.config import Config


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
    """The optimisation of one stage. Defaults are those of the paper (appendix B, docs/paper-notes.md)."""

    epochs: int = Field(default=1, ge=1, description="passes over the pack")
    max_steps: int | None = Field(default=None, ge=1, description="stop after this many optimiser steps")
    global_batch: int = Field(default=128, ge=1, description="samples per optimiser step, over all workers")
    learning_rate: float = Field(default=1e-5, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW's weight decay; 0 for norms and biases")
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    warmup_ratio: float = Field(default=0.03, ge=0, le=1, description="share of the steps with a rising learning rate")
    clip_norm: float = Field(default=1.0, gt=0, description="the gradient is clipped to this norm")
    precision: Literal["fp32", "bf16"] = Field(default="bf16", description="number format of forward and backward")
    activation_checkpointing: bool = Field(default=False, description="recompute blocks in backward to save memory")
    log_every: int = Field(default=10, ge=1, description="optimiser steps between two rows of metrics")
    mask_cells: Literal["any", "half", "nearest"] = Field(
        default="any", description="rule for cells that a mask covers in part (docs/paper-notes.md)"
    )


class StageTask(Config):
    """The settings that the workers of a stage get, besides the commits that they read and write."""

    row: str = Field(description="row of the stage table, e.g. 'stage4_lm'")
    config: StageConfig
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
