"""The parameters of each step. With the revision and the inputs they make the id of its artifact."""

from typing import Any, Literal

from pydantic import Field, PositiveInt

from pipeline.config import Config, added_later
from pipeline.evaluation.config import EvaluationConfig
from pipeline.masks.config import MaskGates, TeacherConfig
from pipeline.overlap.config import DropKind
from pipeline.packing.config import PackConfig
from pipeline.sources.conversation import QueryKind
from pipeline.training.config import StageConfig, StudentConfig

_DROP: Any = added_later((), description="kinds of records that are left out")


class StepParams(Config):
    """Parameters that every step can have."""

    versions: dict[str, str] = added_later(
        {}, description="library -> version that the result was asked for with (the recipe's versions_in_ids)"
    )


class InventoryParams(StepParams):
    """inventory: read every record, resolve, open and hash every image once."""

    source: dict[str, Any] = Field(description="the source's settings, without its locations")
    fingerprint: str = Field(description="checksum of the raw data")
    limit: int | None = Field(description="only the first N records, in file order")


class OverlapParams(StepParams):
    """overlap: find duplicates and shared images; it has no parameters."""


class SubsetParams(StepParams):
    """subset: choose the records whose text is sent to the teachers, and that text."""

    size: int | None = Field(description="records; None takes all that have an image, or those of the quotas")
    query: QueryKind
    turns: Literal["one", "all"]
    seed: int
    drop: tuple[DropKind, ...] = _DROP
    quotas: dict[str, PositiveInt] | None = added_later(None, description="source -> records, in place of one size")

    @property
    def requested(self) -> int | None:
        """Records that the subset should have; None for all."""
        return self.size if self.quotas is None else sum(self.quotas.values())


class SegmentParams(StepParams):
    """segment: run a teacher and keep its raw evidence."""

    teacher: TeacherConfig
    florence: str | None = added_later(None, description="checksum of Florence-2's weights, if the teacher has them")
    sam: str | None = added_later(None, description="checksum of SAM's weights, if the teacher has them")


class MasksParams(StepParams):
    """masks: gate the evidence and publish the accepted masks."""

    gates: MaskGates


class PackParams(StepParams):
    """pack: tokenize conversations and put images and tokens into shards in a random order."""

    pack: PackConfig
    tokenizer: str = Field(description="checksum of the backbone's tokenizer: its files, not the weights beside them")
    seed: int
    drop: tuple[DropKind, ...] = _DROP


class StageParams(StepParams):
    """stage1..stage4: one row of the stage table, trained on one pack."""

    row: str = Field(description="row of the stage table, e.g. 'stage4_lm'")
    config: StageConfig
    student: StudentConfig | None = Field(description="stage 1 only: the student's architecture")
    text: str | None = Field(description="stage 1 only: checksum of the language backbone")
    vision: str | None = Field(description="stage 1 only: checksum of the vision backbone")
    seed: int


class EvaluateParams(StepParams):
    """evaluate: a checkpoint's answers and attention on held-out questions."""

    evaluation: EvaluationConfig


class ReportParams(StepParams):
    """report: one HTML file about a run."""

    recipe: str
    variants: tuple[str, ...]
