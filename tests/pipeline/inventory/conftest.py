"""Fixtures of the tests of the inventory."""

import os
from collections.abc import Iterator

import pytest

from tests.fixtures_s3 import S3Server, s3_in_environment


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not synced to disk: no power is lost here, and hundreds of small commits would wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """An S3-compatible server that this process uses."""
    with s3_in_environment() as server:
        yield server
