"""COCO's instance annotations: the categories in an image, and one mask for each."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from model.errors import DataError
from pipeline.sources.cambrian import tidy
from pipeline.sources.records import Truth

REMEDY = "correct the file, or name another in the recipe"
REACH = 4  # a polygon's corner further out than this many image sizes is an error; rounding stays far below it


def read_json(path: Path, *keys: str) -> dict[str, list[dict[str, Any]]]:
    """The lists `keys` of a COCO file, each a list of objects. Raises DataError that names the file and the fault."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"annotation file {path} cannot be read ({error.strerror}); correct its location in the recipe"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"annotation file {path} is not JSON: {error}; {REMEDY}") from error
    lists = {key: value.get(key) if isinstance(value, dict) else None for key in keys}
    for key, items in lists.items():
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise DataError(f"annotation file {path} has no list '{key}' of objects; it must be in COCO's format")
    return lists  # type: ignore[return-value]


def file_names(path: Path, images: list[dict[str, Any]]) -> dict[Any, str]:
    """Image id -> file name, from COCO's list of images. Raises DataError if an image lacks one of them."""
    try:
        return {image["id"]: tidy(_text(image, "file_name")) for image in images}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"annotation file {path} is not in COCO's format: {error!r} in 'images'; {REMEDY}") from error


def _key(item: dict[str, Any]) -> int | str:
    """An id, as a number or a text. Raises KeyError or ValueError."""
    value = item["id"]
    if not isinstance(value, int | str):
        raise ValueError(f"id is {value!r}, neither a whole number nor a text")
    return value


def _text(item: dict[str, Any], key: str) -> str:
    """A non-empty text. Raises KeyError or ValueError."""
    value = item[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {value!r}, not a text")
    return value


class Instances:
    """The instances of a COCO file, by image file name and category name. Crowd regions count as instances."""

    def __init__(self, path: Path) -> None:
        """Read a COCO instances file. Raises DataError."""
        self._path = path
        raw = read_json(path, "images", "annotations", "categories")
        files = file_names(path, raw["images"])
        try:
            self._names = {_key(category): _text(category, "name") for category in raw["categories"]}
            self._sizes = {files[i["id"]]: (int(i["height"]), int(i["width"])) for i in raw["images"]}
            self._masks: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
            for annotation in raw["annotations"]:
                name = self._names[annotation["category_id"]]
                self._masks[files[annotation["image_id"]]][name].append(annotation["segmentation"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"annotation file {path} is not in COCO's instances format: {error!r}; {REMEDY}") from error

    @property
    def files(self) -> list[str]:
        """File names of the annotated images, in the file's order."""
        return list(self._sizes)

    @property
    def categories(self) -> list[str]:
        """All category names, in the order of their ids: numbers, then texts."""
        return [self._names[key] for key in sorted(self._names, key=lambda key: (isinstance(key, str), key))]

    def present(self, file: str) -> list[str]:
        """The categories of an image, sorted."""
        return sorted(self._masks[file]) if file in self._masks else []

    def by_frequency(self) -> list[str]:
        """The categories that occur in some image, the most frequent first."""
        counts = Counter(name for categories in self._masks.values() for name in categories)
        return sorted(counts, key=lambda name: (-counts[name], name))

    def truth(self, file: str, categories: Iterable[str]) -> Truth | None:
        """The union mask of all instances of these categories in an image; None if it has none, or is unknown.

        Raises DataError if a segmentation is neither polygons nor run lengths.
        """
        if file not in self._masks:
            return None
        height, width = self._sizes[file]
        parts = [mask for name in categories for mask in self._masks[file].get(name, [])]
        try:
            rles = [rle for part in parts for rle in _rles(part, height, width)]
        except Exception as error:  # pycocotools raises bare Exception too
            raise DataError(
                f"annotation file {self._path}, image {file}: a segmentation is neither polygons nor run lengths: "
                f"{error!r}; {REMEDY}"
            ) from error
        if not rles:
            return None
        union = coco.merge(rles)
        return Truth(True, height, width, union["counts"].decode("ascii"))


def _rles(segmentation: Any, height: int, width: int) -> list[Any]:
    """Compressed run lengths of one annotation: polygons, or run lengths as a list or as compressed text.

    Run lengths and coordinates are checked first, because pycocotools' C code trusts them. Raises the errors of Python
    and pycocotools for malformed values.
    """
    if isinstance(segmentation, dict):
        return [_checked_runs(segmentation["counts"], height, width)]
    if not isinstance(segmentation, list):
        raise TypeError(f"it is {type(segmentation).__name__}")
    polygons = [[float(value) for value in polygon] for polygon in segmentation if len(polygon) >= 6]
    limit = REACH * max(height, width)
    if any(not abs(value) <= limit for polygon in polygons for value in polygon):  # also NaN
        raise ValueError(f"a corner is more than {limit} pixels away")
    return list(coco.frPyObjects(polygons, height, width)) if polygons else []


def _checked_runs(counts: Any, height: int, width: int) -> Any:
    """Run lengths in pycocotools' form. Raises ValueError unless they fill the image exactly."""
    runs = counts if isinstance(counts, list) else _uncompressed(counts)
    if any(not isinstance(run, int) or run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"the run lengths do not fill {height} x {width} pixels")
    return coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)


def _uncompressed(text: str) -> list[int]:
    """Run lengths from COCO's compressed text.

    Each character holds 5 bits, the lowest first. From index 3 on a run is stored as the difference from the run two
    before it.
    """
    runs: list[int] = []
    characters = iter(text.encode("ascii"))
    for character in characters:
        value, shift = 0, 0
        while True:
            bits = character - 48
            if not 0 <= bits < 64:
                raise ValueError("not COCO's compressed run lengths")
            value |= (bits & 31) << shift
            shift += 5
            if not bits & 32:
                break
            character = next(characters)
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
