"""Garbage collection is off during a block of imports, and then as it was before."""

import gc
from collections.abc import Iterator

import pytest

from pipeline.compute.imports import fast_imports


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


def test_collection_is_off_within_the_block_and_its_objects_are_frozen() -> None:
    frozen = gc.get_freeze_count()
    with fast_imports():
        assert not gc.isenabled()
        kept = [[n] for n in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(kept)


def test_collection_is_on_again_after_an_error() -> None:
    with pytest.raises(ImportError), fast_imports():
        raise ImportError
    assert gc.isenabled()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    with fast_imports():
        pass
    assert not gc.isenabled()
