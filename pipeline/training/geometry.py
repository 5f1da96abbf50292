"""The geometry of a saved student, read without loading it: masks become cells before any worker starts."""

import json
from pathlib import Path
from typing import Any

from model.errors import DataError
from pipeline.masks.cells import CellSettings

FILES = ("processor_config.json", "preprocessor_config.json")  # where transformers keeps an image processor's fields
FIELDS = ("image_size", "stride", "fit")


def cells_of(model_folder: Path, rule: str) -> CellSettings:
    """How masks become cells of this student's map. Raises DataError if its folder has no image processor."""
    for name in FILES:
        file = model_folder / name
        if file.is_file():
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            found = content.get("image_processor", content)
            if all(field in found for field in FIELDS):
                return CellSettings(int(found["image_size"]), int(found["stride"]), str(found["fit"]), rule)
    raise DataError(f"{model_folder} has no image processor ({', '.join(FIELDS)}); run the stage before again")
