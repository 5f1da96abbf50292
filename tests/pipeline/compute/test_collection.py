"""Garbage collection is off during a block of imports, and then as it was before."""

import gc
from collections.abc import Iterator

import pytest

from pipeline.compute.collection import collection_paused


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    gc.enable()


def test_collection_is_off_within_the_block() -> None:
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_nothing_is_kept_from_the_collections_that_follow() -> None:
    """Objects that are frozen are not freed at the process's end, about which some libraries complain in the log."""
    frozen = gc.get_freeze_count()
    with collection_paused():
        pass
    assert gc.get_freeze_count() == frozen


def test_collection_is_on_again_after_an_error() -> None:
    with pytest.raises(ImportError), collection_paused():
        raise ImportError
    assert gc.isenabled()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    with collection_paused():
        pass
    assert not gc.isenabled()
