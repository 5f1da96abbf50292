"""The spec of a step: a value whose hash is the artifact's id.

A `StepSpec` says *how* an artifact is made, as a derivation does in Nix: the step, the revision of its code, its
parameters and the ids of its inputs. Nothing else (no clock, path, host, worker count) enters the hash, so the id of
every artifact of a run is known before anything runs.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

ID_LENGTH = 64
SHORT = 12


def canonical_json(value: Any) -> str:
    """A value as canonical JSON: sorted keys, no spaces, ASCII. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def short(artifact_id: str) -> str:
    """The first 12 digits of an id, for people to read and type."""
    return artifact_id[:SHORT]


class StepSpec(BaseModel):
    """The step, code revision, parameters and inputs that make an artifact. Equal specs make equal artifacts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str = Field(description="row of the step table, e.g. 'segment'")
    revision: int = Field(ge=1, description="revision of the step's code; bumped when its results change")
    params: dict[str, Any] = Field(description="every parameter that can change the result, as JSON values")
    inputs: dict[str, str] = Field(description="input name -> artifact id")

    @property
    def hash(self) -> str:
        """The hash of the spec alone, without the attempt: the key of its ref."""
        return digest(self.model_dump(mode="json"))

    def id(self, attempt: int = 0) -> str:
        """The artifact's id: the spec's hash for attempt 0, a hash of spec and attempt for a forced attempt."""
        return self.hash if attempt == 0 else digest({"spec": self.hash, "attempt": attempt})


class ArtifactRef(BaseModel):
    """The place of an artifact in a store: kind, name and id make its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    name: str
    id: str

    @property
    def path(self) -> str:
        """Folder relative to the store's root."""
        return f"{self.kind}/{self.name}/{self.id}"

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}/{short(self.id)}"
