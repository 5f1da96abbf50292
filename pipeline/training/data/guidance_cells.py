"""Reads the image geometry of a saved student without loading it: the driver needs it to turn masks into cells."""

import json
from pathlib import Path
from typing import Any

from model.agevlm.letterbox import EARLIER_NAMES
from model.errors import DataError
from pipeline.masks.cells import CellSettings

FILES = ("processor_config.json", "preprocessor_config.json")  # where transformers keeps an image processor's fields
FIELDS = ("image_size", "stride", "letterbox")


def cell_settings(model_folder: Path, rule: str) -> CellSettings:
    """The cell settings of this student's image processor. Raises DataError if its folder has none."""
    for name in FILES:
        file = model_folder / name
        if file.is_file():
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            found = content.get("image_processor", content)
            if "fit" in found:  # the name of this field in earlier checkpoints
                found = {**found, "letterbox": EARLIER_NAMES.get(found["fit"])}
            if all(field in found for field in FIELDS):
                return CellSettings(int(found["image_size"]), int(found["stride"]), str(found["letterbox"]), rule)
    raise DataError(f"{model_folder} has no image processor ({', '.join(FIELDS)}); run the previous stage again")
