"""A store in a temporary folder and a way to put small artifacts into it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore

Publish = Callable[..., Artifact]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture
def publish(store: ArtifactStore) -> Publish:
    def make(
        step: str, content: bytes = b"content", parents: dict[str, Artifact] | None = None, params: str | None = None
    ) -> Artifact:
        """An artifact of one file; unless `params` are given, its id follows the file's content."""
        parents = parents or {}
        spec = StepSpec(
            step=step,
            revision=1,
            params={"content": params or content.hex()},
            inputs={k: a.ref.id for k, a in parents.items()},
        )
        ref = ArtifactRef(kind=step, name="test", id=spec.id())
        staging = Staging(store, ref, spec, 0, parents)
        staging.write_bytes("folder/file.bin", content)
        return staging.publish(Counts(unit="row", rows_in=1, rows_out=1))

    return make
