"""A store in a temporary folder and a way to put small artifacts into it."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.shards import Shards
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from tests.fixtures_s3 import BUCKET, S3Server, s3_in_environment

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


@pytest.fixture(scope="package")
def s3() -> Iterator[S3Server]:
    with s3_in_environment() as server:
        yield server


@pytest.fixture(params=["disk", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """An empty store on a local disk, and one on an S3-compatible server."""
    if request.param == "disk":
        return ArtifactStore(str(tmp_path / "store"))
    request.getfixturevalue("s3")
    return ArtifactStore(f"s3://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def shards(any_store: ArtifactStore) -> Shards:
    return Shards(any_store, "kind/name/id/data-0", "inputs")
