"""Fixtures of the tests of training."""

from pathlib import Path

import pytest
import torch

from tests.pipeline.training.fixtures_tiny_training import make_backbones


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of random text and vision backbones."""
    torch.set_num_threads(1)
    return make_backbones(Path(tmp_path_factory.mktemp("backbones")))
