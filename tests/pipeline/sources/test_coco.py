"""COCO's instance annotations, also malformed ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from model.errors import DataError
from pipeline.sources.coco import Instances, _checked_runs


@pytest.fixture
def annotations() -> dict[str, Any]:
    """One image with a dog in it."""
    return {
        "images": [{"id": 0, "file_name": "0.jpg", "height": 10, "width": 10}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [{"image_id": 0, "category_id": 18, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}],
    }


def opened(folder: Path, annotations: dict[str, Any]) -> Instances:
    (folder / "instances.json").write_text(json.dumps(annotations))
    return Instances(folder / "instances.json")


def test_the_categories_and_masks_of_an_image(tmp_path: Path, annotations: dict[str, Any]) -> None:
    instances = opened(tmp_path, annotations)
    assert (instances.files, instances.present("0.jpg"), instances.present("1.jpg")) == (["0.jpg"], ["dog"], [])
    truth = instances.truth("0.jpg", ["dog", "person"])
    assert truth is not None
    assert coco.area({"size": [truth.height, truth.width], "counts": truth.rle}) == 16
    assert instances.truth("0.jpg", ["person"]) is None


@pytest.mark.parametrize("name", ["./0.jpg", "a//0.jpg"])
def test_another_spelling_of_a_name_is_the_same_image(tmp_path: Path, annotations: dict[str, Any], name: str) -> None:
    annotations["images"][0]["file_name"] = name
    instances = opened(tmp_path, annotations)
    (file,) = instances.files
    assert file == name.replace("./", "").replace("//", "/")
    assert instances.truth(file, ["dog"]) is not None


BAD_INSTANCES: dict[str, tuple[str, str, Any]] = {
    "empty category": ("categories", "name", ""),
    "nameless category": ("categories", "name", None),
    "category without id": ("categories", "id", None),
    "category id is NaN": ("categories", "id", float("nan")),
    "file name is a number": ("images", "file_name", 5),
    "file name is empty": ("images", "file_name", ""),
    "image id is a list": ("images", "id", []),
    "infinite height": ("images", "height", float("inf")),
    "unknown category": ("annotations", "category_id", 12345),
    "unknown image": ("annotations", "image_id", [1]),
}


@pytest.mark.parametrize(("table", "field", "value"), BAD_INSTANCES.values(), ids=BAD_INSTANCES.keys())
def test_malformed_instances_are_an_error_that_names_file_and_remedy(
    tmp_path: Path, annotations: dict[str, Any], table: str, field: str, value: Any
) -> None:
    annotations[table][0][field] = value
    with pytest.raises(DataError, match=r"annotation file .*instances\.json is not in COCO's .*correct the file"):
        opened(tmp_path, annotations)


def test_category_ids_may_be_numbers_and_texts(tmp_path: Path, annotations: dict[str, Any]) -> None:
    annotations["categories"].insert(0, {"id": "x", "name": "zebra"})
    assert opened(tmp_path, annotations).categories == ["person", "dog", "zebra"]


BAD_MASKS: dict[str, Any] = {
    "garbage": {"size": [10, 10], "counts": "\x01 no run lengths"},
    "too short": {"size": [10, 10], "counts": [50, 40]},
    "too long": {"size": [10, 10], "counts": [50, 10**9]},
    "negative": {"size": [10, 10], "counts": [-10, 110]},
    "cut off": {"size": [10, 10], "counts": "PP"},
    "no counts": {"size": [10, 10]},
    "far away": [[0, 0, 1e12, 0, 1e12, 1e12]],
    "not a number": [[0, 0, float("nan"), 0, 5, 5]],
    "text": [["a", "b", "c", "d", "e", "f"]],
    "null": None,
    "a text": "0123456789",
}


@pytest.mark.parametrize("mask", BAD_MASKS.values(), ids=BAD_MASKS.keys())
def test_bad_masks_are_an_error_before_they_reach_c_code(
    tmp_path: Path, annotations: dict[str, Any], mask: Any
) -> None:
    annotations["annotations"][0]["segmentation"] = mask
    instances = opened(tmp_path, annotations)
    with pytest.raises(DataError, match=r"instances\.json, image 0\.jpg: a segmentation .*correct the file"):
        instances.truth("0.jpg", ["dog"])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_compressed_run_lengths_are_read_as_pycocotools_writes_them(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((height, width)) < rng.random(), np.ones((7, 9))).astype(np.uint8)
    encoded = coco.encode(np.asfortranarray(mask))
    assert _checked_runs(encoded["counts"].decode("ascii"), *mask.shape)["counts"] == encoded["counts"]
