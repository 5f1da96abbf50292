"""Folders of a stack for one test."""

from pathlib import Path

import pytest

from infra.local.folders import Folders
from pipeline.artifacts.paths import PROJECT


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """The folders of a stack of this project, in an empty home."""
    return Folders(project=PROJECT, home=tmp_path / "home", store=str(tmp_path / "home" / "artifacts"))
