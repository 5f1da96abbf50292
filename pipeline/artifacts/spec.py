"""The spec of a step: a value whose hash is the artifact's id.

A `StepSpec` says *how* an artifact is made, as a derivation does in Nix: the step, the revision of its code, its
parameters and the ids of its inputs. Nothing else (no clock, path, host, worker count) enters the hash, so the id of
every artifact of a run is known before anything runs.
"""

import hashlib
import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

ID_LENGTH = 64
FULL_ID = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")
SHORT = 12


LONGEST_NAME = 255
"""Bytes of the longest file name of usual file systems."""


def safe_name(name: str) -> str:
    """The name of one file or folder, unchanged. Raises ValueError if it could lead to another folder."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise ValueError(f"{name!r} is no file name: it must not be empty, '.' or '..', nor have / \\ or control codes")
    if len(name.encode("utf-8", errors="surrogatepass")) > LONGEST_NAME:
        raise ValueError(f"'{name[:40]}...' is no file name: it has more than {LONGEST_NAME} bytes")
    return name


def is_safe_name(name: str) -> bool:
    """True if `safe_name` takes a name."""
    try:
        safe_name(name)
    except ValueError:
        return False
    return True


def safe_path(path: str) -> str:
    """A relative path that stays below its folder, unchanged. Raises ValueError if it does not."""
    for name in path.split("/"):
        try:
            safe_name(name)
        except ValueError as error:
            raise ValueError(f"the path {path[:200]!r} does not stay in its folder: {error}") from error
    return path


Name = Annotated[str, AfterValidator(safe_name)]
"""A name that makes one folder or file."""
RelativePath = Annotated[str, AfterValidator(safe_path)]
"""A path below a folder, with '/' between its names."""


def canonical_json(value: Any) -> str:
    """A value as canonical JSON: sorted keys, no spaces, ASCII. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def parsed(content: bytes | str) -> Any:
    """JSON as a value. Raises ValueError if it is none, or nested too deep for Python's parser."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


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

    kind: Name
    name: Name
    id: Name

    @property
    def path(self) -> str:
        """Folder relative to the store's root."""
        return f"{self.kind}/{self.name}/{self.id}"

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}/{short(self.id)}"
