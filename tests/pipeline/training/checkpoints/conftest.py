"""The world of small stages, built once."""

import pytest

from tests.pipeline.training.checkpoints.fixtures_interrupted import World, make_world


@pytest.fixture(scope="package")
def world(backbones: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> World:
    """A pack and the parent of small stages."""
    return make_world(tmp_path_factory.mktemp("interrupted") / "pack", backbones)
