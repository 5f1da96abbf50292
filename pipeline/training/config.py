"""What can be asked of training: the student and each stage's optimisation (paper, appendix B)."""

from typing import Literal

from pydantic import Field

from pipeline.config import Config

Variant = Literal["ca_baseline", "age_vlm", "age_vlm_lm"]


class StudentConfig(Config):
    """The student's own choices; everything else comes with its two backbones."""

    cross_attention: Literal["layer", "in_block"] = Field(
        default="layer", description="CA layers of their own in the expanded stack, or inside a block (DESIGN 6, row 1)"
    )
    cross_attention_layers: tuple[int, ...] = Field(
        default=(2, 7, 12, 17), min_length=1, description="positions of the cross-attention layers"
    )
    init: Literal["zero", "normal"] = Field(default="zero", description="how CA's output projections start")
    letterbox: Literal["mean", "zero", "squash"] = Field(
        default="mean", description="how an image is fitted to the square: padded with the mean, zeros, or stretched"
    )
    guidance_normalisation: Literal["sum", "max"] = Field(default="sum", description="of P in eq. 3")
    guidance_reduction: Literal["mean", "sum"] = Field(default="mean", description="over the CA layers")


class StageConfig(Config):
    """The optimisation of one stage. Defaults are the paper's (appendix B) and the cited prior work's."""

    epochs: int = Field(default=1, ge=1, description="passes over the pack")
    max_steps: int | None = Field(default=None, ge=1, description="stop after this many optimiser steps")
    global_batch: int = Field(default=128, ge=1, description="samples per optimiser step, over all workers")
    learning_rate: float = Field(default=1e-5, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW's; not on norms and biases")
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    warmup_ratio: float = Field(default=0.03, ge=0, le=1, description="share of the steps with a rising rate")
    clip_norm: float = Field(default=1.0, gt=0, description="largest norm of the whole gradient")
    precision: Literal["fp32", "bf16"] = Field(default="bf16", description="number format of forward and backward")
    activation_checkpointing: bool = Field(default=False, description="recompute blocks in backward to save memory")
    log_every: int = Field(default=10, ge=1, description="optimiser steps between two rows of metrics")
    mask_cells: Literal["any", "half", "nearest"] = Field(
        default="any", description="when a cell of the grid belongs to a mask (DESIGN 6, row 9)"
    )


class PackConfig(Config):
    """How records become training rows."""

    max_tokens: int = Field(default=2048, ge=16, description="longest row; longer conversations lose their last turns")
    shard_rows: int = Field(default=1024, ge=1, description="rows per shard")
    row_group_rows: int = Field(default=64, ge=1, description="rows per Parquet row group: the unit of reading")
    system_prompt: str | None = Field(default=None, description="system turn put before each conversation")
