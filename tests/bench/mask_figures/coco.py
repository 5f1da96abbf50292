"""Photographs with human masks: COCO's instances, downstream of Florence-2.

An oracle takes Florence-2's place: it answers the name of a category with one region for each instance of it. What
follows is the pipeline's: SAM, evidence, gates.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools.coco import COCO

from model.teachers import rle
from model.teachers.evidence import Evidence, Instance
from model.teachers.finding import Found
from model.teachers.polygons import BINS, Region
from pipeline.masks.config import MaskGates, TeacherConfig
from pipeline.masks.pictures import Picture
from pipeline.masks.teachers.interface import Batches, Phase
from pipeline.masks.teachers.table import open_phases
from tests.bench.mask_figures.chain import Asked, Judged, judge, setup

SMALL, MEDIUM = 32**2, 96**2  # COCO's bounds of areas, pixels


@dataclass(frozen=True)
class Object:
    """One instance that is no crowd."""

    category: str
    polygons: tuple[tuple[float, ...], ...]
    mask: npt.NDArray[np.bool_]
    """By pycocotools' own way from the annotation, (H, W)."""

    @property
    def size(self) -> str:
        """'small', 'medium' or 'large', as COCO calls it by its pixels."""
        area = int(self.mask.sum())
        return "small" if area < SMALL else "medium" if area < MEDIUM else "large"


@dataclass(frozen=True)
class Photo:
    """One photograph with its instances."""

    name: str
    height: int
    width: int
    file: Path | None
    """None if the picture is not there; the annotations are enough for some figures."""
    objects: tuple[Object, ...]

    def pixels(self) -> npt.NDArray[np.uint8]:
        """uint8 (H, W, 3)."""
        assert self.file is not None, f"{self.name} is not there"
        return np.asarray(Image.open(self.file).convert("RGB"))


def read_photos(folder: Path) -> list[Photo]:
    """The photographs of all files `annotations/instances_*.json` of a folder, in order of their names.

    Raises FileNotFoundError if there is no such file.
    """
    files = sorted((folder / "annotations").glob("instances_*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no annotations/instances_*.json; give a folder in COCO's layout")
    photos = []
    for file in files:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(file))
        names = {item["id"]: item["name"] for item in coco.dataset["categories"]}
        pictures = {path.name: path for path in sorted((folder / "images").rglob("*.jpg"))}
        for facts in coco.dataset["images"]:
            objects = [
                Object(names[one["category_id"]], tuple(map(tuple, one["segmentation"])), coco.annToMask(one) > 0)
                for one in coco.imgToAnns[facts["id"]]
                if not one["iscrowd"]
            ]
            picture = pictures.get(facts["file_name"])
            photos.append(Photo(facts["file_name"], facts["height"], facts["width"], picture, tuple(objects)))
    return photos


def by_category(photo: Photo) -> dict[str, list[Object]]:
    """A photograph's instances by category."""
    found: dict[str, list[Object]] = defaultdict(list)
    for item in photo.objects:
        found[item.category].append(item)
    return dict(found)


def in_bins(polygon: Sequence[float], height: int, width: int) -> tuple[float, ...]:
    """A polygon as Florence-2 would say it: every corner moved to the middle of its bin of 1/BINS of the side."""
    size = np.array([width, height])
    bins = np.clip(np.floor(np.reshape(polygon, (-1, 2)) / size * BINS), 0, BINS - 1)
    return tuple(float(v) for v in ((bins + 0.5) / BINS * size).reshape(-1))


def asked_about(photo: Photo) -> list[Asked]:
    """One query for each category of a photograph, with the union of its masks."""
    return [
        Asked(f"a {category}", rle.encode(np.any([item.mask for item in items], axis=0)), category, {"items": items})
        for category, items in by_category(photo).items()
    ]


def _answering(photos: Sequence[Photo], answer: Callable[[str, Sequence[Object], Photo], Any]) -> Phase:
    """A phase that answers each query about a photograph from the objects of the query's category."""

    def phase(pictures: Sequence[Picture], before: Sequence[Sequence[Any]]) -> tuple[list[list[Any]], Batches]:
        made = []
        for picture, photo in zip(pictures, photos, strict=True):
            groups = by_category(photo)
            made.append([answer(text, groups[text.removeprefix("a ")], photo) for text in picture.texts])
        return made, {}

    return phase


def oracle_finder(photos: Sequence[Photo]) -> Phase:
    """The phase in Florence-2's place: regions from the annotations' polygons, through Florence-2's bins."""

    return _answering(photos, _found)


def _found(text: str, items: Sequence[Object], photo: Photo) -> Found:
    regions = [
        Region(tuple(in_bins(polygon, photo.height, photo.width) for polygon in item.polygons)) for item in items
    ]
    return Found(text, tuple(regions))


def exact_masks(photos: Sequence[Photo]) -> Phase:
    """The phase in place of both teachers: each instance's exact mask. No error is left but those downstream."""

    return _answering(photos, _exact)


def _exact(text: str, items: Sequence[Object], photo: Photo) -> Evidence:
    instances = []
    for item in items:
        ys, xs = np.nonzero(item.mask)
        box = float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)
        area = int(item.mask.sum())
        instances.append(Instance(rle.encode(item.mask), area, area / (photo.height * photo.width), box, item.polygons))
    return Evidence(text, "ok", instances=tuple(instances))


def judged(photos: Sequence[Photo], phases: Callable[[Photo], list[Phase]], gates: MaskGates) -> list[Judged]:
    """Evidence and masks of every category of every photograph."""
    rows = []
    for photo in photos:
        asked = asked_about(photo)
        if asked:
            rows += judge(phases(photo), ORACLE, [(photo.pixels(), asked)], gates)
    return rows


ORACLE = setup(Path("oracle"))  # its weights are never opened


def masks_of_photos(photos: Sequence[Photo], weights: Path | None, prompt: str, gates: MaskGates) -> list[Judged]:
    """Masks from oracle regions by SAM (a folder that holds `sam`), or the exact masks where there are no weights."""
    if weights is None:
        return judged(photos, lambda photo: [exact_masks([photo])], gates)
    teacher = setup(weights, TeacherConfig.model_validate({"sam_prompt": prompt}))
    (segmenter,) = open_phases(teacher, first=1)
    return judged(photos, lambda photo: [oracle_finder([photo]), segmenter], gates)
