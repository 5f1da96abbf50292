"""The geometry of a saved student."""

from pathlib import Path

import pytest

from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.errors import DataError
from pipeline.masks.cells import CellSettings
from pipeline.training.data.guidance_cells import cell_settings


def test_cell_settings_are_read_from_the_saved_image_processor(tmp_path: Path) -> None:
    AgeVlmImageProcessor(image_size=64, stride=16, letterbox="zero").save_pretrained(tmp_path)
    assert cell_settings(tmp_path, "half") == CellSettings(64, 16, "zero", "half")
    with pytest.raises(DataError, match="has no image processor"):
        cell_settings(tmp_path / "nothing", "any")
