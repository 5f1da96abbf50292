"""The file system of a store: its roots, conditional uploads, versions, and requests that fail."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from model.errors import ConfigError
from pipeline.artifacts import filesystem
from pipeline.artifacts.shards import Shards
from pipeline.artifacts.store import ArtifactStore
from tests.fixtures_s3 import BUCKET, S3Server
from tests.pipeline.artifacts.fixtures_shards import NAME, commit


@pytest.fixture
def store(any_store: ArtifactStore) -> ArtifactStore:
    return any_store


def test_an_upload_that_a_rival_ended_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "draft").write_bytes(b"rows")
    calls: list[str] = []

    class Rival:
        protocol = ("s3",)

        def put_file(self, source: str, path: str, mode: str) -> None:
            calls.append(mode)
            if len(calls) == 1:
                raise FileNotFoundError("the upload does not exist")

    assert filesystem.create(Rival(), "bucket/file", tmp_path / "draft")
    assert calls == ["create", "create"]


@pytest.mark.parametrize(
    ("status", "code", "again"),
    [
        (503, "ServiceUnavailable", True),
        (500, "InternalError", True),
        (409, "ConditionalRequestConflict", True),
        (412, "PreconditionFailed", False),
        (404, "NoSuchKey", False),
        (403, "AccessDenied", False),
    ],
)
def test_only_errors_of_the_server_are_transient(status: int, code: str, again: bool) -> None:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert filesystem.is_transient(ClientError(answer, "PutObject")) is again
    assert filesystem.is_transient(EndpointConnectionError(endpoint_url="http://gone"))
    assert not filesystem.is_transient(ValueError("odd"))


@pytest.mark.parametrize("size", [0, 5, (110 << 20) + 7])
def test_the_version_of_an_upload_is_known_beforehand(s3: S3Server, tmp_path: Path, size: int) -> None:
    store, file = ArtifactStore(f"s3://{BUCKET}/{uuid.uuid4().hex}"), tmp_path / "file"
    with open(file, "wb") as stream:
        stream.truncate(size)
    assert filesystem.create(store.fs, store.join("file"), file)
    assert filesystem.version(store.fs.info(store.join("file"))) == filesystem.expected_version(store.fs, file)


@pytest.mark.parametrize("name", ["a[1]b", "a?b", "a*b", "a b#%20+é{1,2}", "a::b"])
def test_the_name_of_a_root_is_no_pattern(store: ArtifactStore, name: str) -> None:
    if not store.is_local and "::" in name:
        with pytest.raises(ConfigError, match="chains file systems"):
            ArtifactStore(f"{store.root}/{name}")
        return
    for sibling in ("a1b", "axb", "axxb"):
        store.fs.makedirs(store.join(sibling, "kind/name/ff"), exist_ok=True)
        store.fs.pipe_file(store.join(sibling, "kind/name/ff/manifest.json"), b"{}")
    odd = ArtifactStore(f"{store.root}/{name}")
    assert odd.base == store.join(name)
    shards = Shards(odd, "kind/name/id/data-0", "inputs")
    seal = commit(shards)
    shards.check_current([seal])
    assert shards.committed() == {NAME: seal}
    odd.fs.pipe_file(odd.join("kind/name/id/manifest.json"), b"{}")
    assert [ref.path for ref in odd.refs()] == ["kind/name/id"]
    filesystem.remove_tree(odd.fs, odd.join("kind"))
    filesystem.remove_tree(odd.fs, odd.join("kind"))
    assert list(odd.refs()) == []
    assert len(list(ArtifactStore(store.join("a1b") if store.is_local else f"{store.root}/a1b").refs())) == 1


def test_requests_to_a_store_that_refuses_for_a_while_are_retried(s3: S3Server) -> None:
    shards = Shards(ArtifactStore(f"s3://{BUCKET}/{uuid.uuid4().hex}"), "kind/name/id/data-0", "inputs")
    assert shards._store.fs.retries == filesystem.S3_ATTEMPTS
    s3.refuse(12)
    assert shards.committed() == {}
    s3.refuse(12)
    seal = commit(shards)
    assert s3.refused > 0
    assert shards.committed() == {NAME: seal}
