"""Settings of mask generation: the teachers (step `segment`) and the gates (step `masks`)."""

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.config import Config


class TeacherConfig(Config):
    """Settings of Florence-2, of SAM's prompt and of the shards. Changing any of these runs the teachers again."""

    prompt: str = Field(
        default="Locate {query} in the image with mask",
        description="Florence-2's prompt; {query} is replaced by the text (docs/paper-notes.md)",
    )
    sam_prompt: Literal["box", "box_and_mask", "points"] = Field(
        default="box", description="SAM's prompt, taken from Florence's polygon"
    )
    max_new_tokens: int = Field(default=256, ge=8, le=4096, description="tokens that Florence may generate per query")
    beams: int = Field(default=1, ge=1, le=8, description="beams of Florence's search; 1 is greedy")
    batch_queries: int = Field(default=16, ge=1, description="queries per Florence batch, inside one shard")
    max_query_characters: int = Field(default=400, ge=16, description="longer queries are cut at this length")
    shard_images: int = Field(default=32, ge=1, description="images per shard: the unit of commit and of resume")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="number format of both teachers")

    @field_validator("prompt")
    @classmethod
    def _has_query(cls, value: str) -> str:
        if value.count("{query}") != 1:
            raise ValueError("must contain {query} exactly once, where the text goes")
        return value


class MaskGates(Config):
    """Thresholds that a mask must pass to be used in training. Changing a gate runs no model again."""

    min_polygon_score: float = Field(
        default=0.0, ge=0, le=1, description="Florence: geometric mean probability of the answer's tokens"
    )
    min_sam_iou: float = Field(default=0.5, ge=0, le=1, description="SAM: its own predicted IoU, per instance")
    min_agreement_iou: float = Field(
        default=0.3, ge=0, le=1, description="IoU of Florence's polygon and SAM's mask, per instance"
    )
    min_area: float = Field(default=0.0005, ge=0, le=1, description="smallest accepted mask, fraction of the image")
    max_area: float = Field(default=0.95, ge=0, le=1, description="largest accepted mask, fraction of the image")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_area >= self.max_area:
            raise ValueError(f"min_area {self.min_area} must be smaller than max_area {self.max_area}")
        return self


@dataclass(frozen=True)
class TeacherSetup:
    """The teachers' weights, settings and device: all that a process needs to load them."""

    florence: str
    """Location of Florence-2's weights."""
    sam: str
    """Location of SAM's weights."""
    name: str
    """Name of the teachers in rows of evidence."""
    config: TeacherConfig
    device: str
    """'cpu' or 'cuda'."""
    threads: int
    """CPU threads of torch."""
