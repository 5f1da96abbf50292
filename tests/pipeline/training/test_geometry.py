"""The geometry of a saved student."""

from pathlib import Path

import pytest

from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.errors import DataError
from pipeline.masks.cells import CellSettings
from pipeline.training.geometry import cells_of


def test_it_is_read_from_the_saved_image_processor(tmp_path: Path) -> None:
    AgeVlmImageProcessor(image_size=64, stride=16, fit="pad").save_pretrained(tmp_path)
    assert cells_of(tmp_path, "half") == CellSettings(64, 16, "pad", "half")
    with pytest.raises(DataError, match="has no image processor"):
        cells_of(tmp_path / "nothing", "any")
