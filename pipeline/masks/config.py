"""Settings of mask generation: the teachers (step `segment`) and the gates (step `masks`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.artifacts.store import ArtifactStore
from pipeline.config import Config


class TeacherConfig(Config):
    """Settings of a teacher and of the shards. Changing one that the teacher reads runs it again."""

    kind: str = Field(
        default="florence_sam",
        description="the teacher, a row of the table of teachers: Florence-2 with SAM, or 'truth', the source's masks",
    )
    task: Literal["referring", "phrase_grounding"] = Field(
        default="referring",
        description="Florence's task: polygons of the object that the text is about, or boxes of each phrase in it",
    )
    prompt: str | None = Field(
        default=None,
        description="Florence-2's prompt; {query} is replaced by the text (docs/paper-notes.md). "
        "Null: the one that Florence-2 was trained with for the task",
    )
    sam_prompt: Literal["box", "box_and_mask", "points"] = Field(
        default="box", description="SAM's prompt, taken from Florence's polygon"
    )
    multimask: bool = Field(
        default=False,
        description="SAM proposes three masks per prompt, and the one with the best predicted IoU is taken",
    )
    sam_attention: Literal["package", "sdpa"] = Field(
        default="package",
        description="attention of SAM's encoder: segment-anything's own, or torch's scaled-dot-product attention",
    )
    sam_compile: bool = Field(default=False, description="compile SAM's encoder with torch.compile")
    max_new_tokens: int = Field(default=256, ge=8, le=4096, description="tokens that Florence may generate per query")
    beams: int = Field(default=1, ge=1, le=8, description="beams of Florence's search; 1 is greedy")
    batch_queries: int = Field(default=16, ge=1, description="queries per Florence batch, inside one shard")
    batch_images: int = Field(default=4, ge=1, description="images per SAM batch, inside one shard")
    max_query_characters: int = Field(default=400, ge=16, description="longer queries are cut at this length")
    shard_images: int = Field(default=32, ge=1, description="images per shard: the unit of commit and of resume")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="number format of both teachers")

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """`teacher: truth` is short for `teacher: {kind: truth}`."""
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("prompt")
    @classmethod
    def _has_query(cls, value: str | None) -> str | None:
        if value is not None and value.count("{query}") != 1:
            raise ValueError("must contain {query} exactly once, where the text goes")
        return value


class MaskGates(Config):
    """Thresholds that a mask must pass to be used in training. Changing a gate runs no model again."""

    require_ended: bool = Field(
        default=True, description="reject masks of an answer of Florence that the token budget (max_new_tokens) cut off"
    )
    min_polygon_score: float = Field(
        default=0.0, ge=0, le=1, description="Florence: geometric mean probability of the answer's tokens"
    )
    min_sam_iou: float = Field(default=0.5, ge=0, le=1, description="SAM: its own predicted IoU, per instance")
    min_agreement_iou: float = Field(
        default=0.3, ge=0, le=1, description="IoU of Florence's polygon and SAM's mask, per instance"
    )
    min_stability: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="IoU of SAM's masks at a higher and a lower threshold of its logits, per instance",
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
    """A teacher's weights, settings and device: all that a process needs to load it. Can be sent to workers."""

    weights: Mapping[str, str]
    """Role, e.g. 'sam' -> location of the weights."""
    name: str
    """Name of the teacher in rows of evidence."""
    config: TeacherConfig
    device: str
    """'cpu' or 'cuda'."""
    threads: int
    """CPU threads of torch."""
    truth: Sequence[str] = ()
    """Paths of the inventory's TRUTH parts, and `store` to read them with; for teachers that need them."""
    store: ArtifactStore | None = None
