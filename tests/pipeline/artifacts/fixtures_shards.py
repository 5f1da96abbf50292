"""Small shards to commit, read and damage."""

import os

import pytest

import pipeline.artifacts.shards as shards_module
from pipeline.artifacts.shards import Seal, Shards
from pipeline.artifacts.store import ArtifactStore

NAME = "part-00000-of-00002"


def read(store: ArtifactStore, shards: Shards, file: str) -> bytes:
    content: bytes = store.fs.cat_file(shards.path(file))
    return content


def put(store: ArtifactStore, shards: Shards, file: str, content: bytes) -> None:
    """Write a file without the commit protocol."""
    store.fs.makedirs(os.path.dirname(shards.path(file)), exist_ok=True)
    store.fs.pipe_file(shards.path(file), content)


def commit(shards: Shards, content: bytes = b"rows", name: str = NAME, inputs: str | None = None) -> Seal:
    return shards.commit(name, {f"{name}.parquet": content}, 3, {"rejects": [["a", "b", "c"]]}, inputs)


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "OTHER_WRITER_SECONDS", {"disk": 0.1, "object store": 0.1})
