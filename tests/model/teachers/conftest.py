"""Random teachers on disk, made once."""

from pathlib import Path

import pytest

from tests.model.teachers.fixtures_tiny_teachers import write_florence, write_sam


@pytest.fixture(scope="session")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Florence-2 whose every answer is a polygon."""
    return write_florence(tmp_path_factory.mktemp("talkative"), talkative=True)


@pytest.fixture(scope="session")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Florence-2 that says nothing."""
    return write_florence(tmp_path_factory.mktemp("silent"), talkative=False)


@pytest.fixture(scope="session")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM in a folder."""
    return write_sam(tmp_path_factory.mktemp("sam"))
