"""The programs' scratch files lie outside the project."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """$AGEVLM_HOME of these tests."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("AGEVLM_HOME", str(folder))
    return folder
