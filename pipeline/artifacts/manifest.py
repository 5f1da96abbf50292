"""The manifest of an artifact: its files, counts, spec and inputs. Written last; it makes the artifact exist."""

import hashlib
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.artifacts.spec import ArtifactRef, Name, RelativePath, StepSpec, canonical_json, digest, parsed, short

MANIFEST = "manifest.json"
FORMAT: Final = 2
SELF = "self_sha256"
"""Field of manifest.json with the digest of all other fields: it does not match if the manifest was edited."""
CONTENT = frozenset({"attempt", "spec", "files", "counts", "statistics"})
"""Fields that are an artifact's content. Its data folder's name and its provenance (time, host, job) are not."""
ASIDE = "provenance/"
"""Data files below this folder describe the run, e.g. its speed: they are checked, but are not part of the content."""


class NewerFormat(ValueError):
    """A manifest that a newer version of agevlm wrote."""


def plural(unit: str) -> str:
    """'queries' from 'query', 'records' from 'record'."""
    return f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"


class FileEntry(BaseModel):
    """One data file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: RelativePath = Field(description="path relative to the artifact's data folder")
    size: int = Field(ge=0, description="bytes")
    sha256: str = Field(min_length=64, max_length=64)


class Counts(BaseModel):
    """Row counts with the conservation rule: in = out + rejected + not selected. No row is dropped silently."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: str = Field(description="unit of the counts: record, query, sample, ...")
    rows_in: int = Field(ge=0)
    rows_out: int = Field(ge=0)
    rejected: dict[str, int] = Field(default_factory=dict, description="reason -> number of rows")
    not_selected: int = Field(default=0, ge=0, description="rows left out on purpose, e.g. by a subset's size")

    @property
    def total_rejected(self) -> int:
        """Rows rejected, over all reasons."""
        return sum(self.rejected.values())

    @property
    def summary(self) -> str:
        """'240 of 320 queries, 80 rejected'."""
        rejected = f", {self.total_rejected} rejected" if self.total_rejected else ""
        return f"{self.rows_out} of {self.rows_in} {plural(self.unit)}{rejected}"

    @model_validator(mode="after")
    def _conserve(self) -> Self:
        accounted = self.rows_out + self.total_rejected + self.not_selected
        if self.rows_in != accounted:
            raise ValueError(
                f"{self.unit}s are not conserved: {self.rows_in} in, but {self.rows_out} out "
                f"+ {self.total_rejected} rejected + {self.not_selected} not selected = {accounted}"
            )
        return self


class Parent(BaseModel):
    """An input of an artifact, pinned by its id and by the digest of the content that was read.

    So an input that was lost and made again with the same bytes is the same input; one with other bytes is not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: ArtifactRef
    content_sha256: str


class Origin(BaseModel):
    """The Prefect flow run that started a job, and the pages of both: links for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flow_run_id: str
    flow_run: str = Field(default="", description="its name in Prefect")
    deployment: str | None = None
    flow_run_page: str | None = Field(default=None, description="URL of the run's page in Prefect")
    job_page: str | None = Field(default=None, description="URL of the job's page on Ray's dashboard")

    @property
    def run(self) -> str:
        """The run for people: its name, or its id if it has none, and its page."""
        name = self.flow_run or self.flow_run_id
        return f"{name}  {self.flow_run_page}" if self.flow_run_page else name


class Provenance(BaseModel):
    """Time, host, library versions and job of a run: information for people, never part of an id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    started: str = Field(description="UTC, ISO 8601")
    seconds: float = Field(ge=0, description="wall time of the step's own work")
    git_commit: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    host: str = ""
    device: str = "cpu"
    job: str | None = Field(default=None, description="Ray submission id, if a Ray job made it")
    # Left out when it is None, so that a manifest from before this field keeps its bytes and its digest.
    origin: Origin | None = Field(
        default=None, exclude_if=lambda value: value is None, description="flow run that started the job"
    )


class Manifest(BaseModel):
    """The content of manifest.json. The id must follow from spec and attempt; the parents must be the spec's inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = FORMAT
    ref: ArtifactRef
    attempt: int = 0
    spec: StepSpec
    parents: dict[str, Parent]
    data: Name = Field(
        description="name of the data folder: data-<digest of inputs> if the step commits shards, else data-<uuid>"
    )
    files: list[FileEntry]
    counts: Counts
    statistics: dict[str, Any] = Field(default_factory=dict)
    provenance: Provenance

    @model_validator(mode="after")
    def _agree(self) -> Self:
        made = self.spec.id(self.attempt)
        if made != self.ref.id:
            raise ValueError(f"its spec and attempt make the id {short(made)}, but it is called {self.ref}")
        if {name: parent.ref.id for name, parent in self.parents.items()} != self.spec.inputs:
            raise ValueError("its parents are not the inputs of its spec")
        return self

    def to_bytes(self) -> bytes:
        """The exact bytes of manifest.json."""
        body = self.model_dump(mode="json")
        return (canonical_json({**body, SELF: digest(body)}) + "\n").encode("ascii")

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read manifest.json. Raises ValueError with the reason if it is damaged or was edited."""
        body = parsed(content)
        if not isinstance(body, dict):
            raise ValueError("it is not a JSON object")
        found_format = body.get("format")
        if found_format != FORMAT:
            newer = isinstance(found_format, int) and found_format > FORMAT
            text = f"its format is {found_format!r}, but this version of agevlm reads format {FORMAT}"
            raise NewerFormat(text) if newer else ValueError(text)
        if body.pop(SELF, None) != digest(body):
            raise ValueError("it was changed after it was written: its own digest does not match")
        try:
            found = cls.model_validate(body)
            found.model_dump(
                mode="json", include={"statistics"}
            )  # raises ValueError if they are nested too deep to be written
            return found
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error

    @property
    def sha256(self) -> str:
        """Digest of manifest.json. It differs each time the artifact is made, because it covers the provenance."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def content_sha256(self) -> str:
        """Digest of spec, attempt, files (without those below ASIDE), counts and statistics. Children pin this."""
        content = self.model_dump(mode="json", include=set(CONTENT))
        content["files"] = [entry for entry in content["files"] if not entry["path"].startswith(ASIDE)]
        return digest(content)

    @property
    def bytes(self) -> int:
        """Total size of the data files in bytes."""
        return sum(entry.size for entry in self.files)
