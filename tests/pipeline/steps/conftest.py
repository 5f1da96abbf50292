"""What several tests of steps share. Imports the model only when a test asks for it: most steps do without."""

import pytest


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of random text and vision backbones."""
    from tests.pipeline.training.world import make_backbones

    return make_backbones(tmp_path_factory.mktemp("backbones"))
