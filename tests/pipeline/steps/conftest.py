"""Fixtures of the tests of steps. The model is imported only when a test needs it; most do not."""

import pytest


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of random text and vision backbones."""
    from tests.pipeline.training.fixtures_tiny_training import make_backbones

    return make_backbones(tmp_path_factory.mktemp("backbones"))
