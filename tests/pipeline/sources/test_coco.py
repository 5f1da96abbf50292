"""COCO's instance annotations. One bad entry is left out and counted, and what depends on it is in doubt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from model.errors import DataError
from pipeline.sources.coco import Instances

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]
OTHER = [[6, 6, 9, 6, 9, 9, 6, 9]]


@pytest.fixture
def annotations() -> dict[str, Any]:
    """Two images with a dog in each."""
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 10, "width": 10} for n in range(2)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 70 + n, "image_id": n, "category_id": 18, "segmentation": SQUARE, "iscrowd": 0} for n in range(2)
        ],
    }


def opened(folder: Path, annotations: Any) -> Instances:
    (folder / "instances.json").write_text(json.dumps(annotations))
    return Instances(folder / "instances.json")


def area(instances: Instances, file: str, *names: str) -> int | None:
    """Pixels of a truth; None if there is none."""
    truth = instances.truth(file, names)
    return None if truth is None else int(coco.area({"size": [truth.height, truth.width], "counts": truth.rle}))


def test_the_categories_and_masks_of_an_image(tmp_path: Path, annotations: dict[str, Any]) -> None:
    instances = opened(tmp_path, annotations)
    assert (instances.files, instances.present("0.jpg")) == (["0.jpg", "1.jpg"], ["dog"])
    assert (instances.present("2.jpg"), instances.truth("2.jpg", ["dog"])) == ([], None)
    assert area(instances, "0.jpg", "dog", "person") == 16
    assert instances.truth("0.jpg", ["person"]) is None
    assert not instances.findings.rejected + instances.findings.repaired
    assert instances.findings.examples == []


@pytest.mark.parametrize("name", ["./0.jpg", "a//0.jpg"])
def test_another_spelling_of_a_name_is_the_same_image(tmp_path: Path, annotations: dict[str, Any], name: str) -> None:
    annotations["images"][0]["file_name"] = name
    instances = opened(tmp_path, annotations)
    file = instances.files[0]
    assert file == name.replace("./", "").replace("//", "/")
    assert instances.truth(file, ["dog"]) is not None


BAD_ANNOTATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "segmentation is null": ({"segmentation": None}, "no_segmentation"),
    "segmentation is empty": ({"segmentation": []}, "no_segmentation"),
    "run lengths of another size": ({"segmentation": {"size": [5, 20], "counts": [11, 89]}}, "wrong_size"),
    "polygon outside the image": ({"segmentation": [[-9, 1, -5, 1, -5, 5]]}, "empty_mask"),
    "odd polygon": ({"segmentation": [[1, 1, 5, 1, 5, 5, 1]]}, "bad_polygon"),
    "run lengths that do not fill": ({"segmentation": {"size": [10, 10], "counts": [1]}}, "bad_run_lengths"),
}


@pytest.mark.parametrize(("change", "reason"), BAD_ANNOTATIONS.values(), ids=BAD_ANNOTATIONS.keys())
def test_a_bad_mask_costs_the_category_in_its_image(
    tmp_path: Path, annotations: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    """Also when the image has a second, good dog: the union would lack the first one."""
    annotations["annotations"][0] |= change
    annotations["annotations"] += [
        {"id": 80, "image_id": 0, "category_id": 18, "segmentation": OTHER},
        {"id": 81, "image_id": 0, "category_id": 1, "segmentation": OTHER},
    ]
    instances = opened(tmp_path, annotations)
    assert instances.findings.rejected == {reason: 1}
    (example,) = instances.findings.examples
    assert example.startswith(f"{reason}: {tmp_path / 'instances.json'}, annotation 70: ")
    assert instances.present("0.jpg") == ["person"]
    assert instances.in_doubt("0.jpg", ["dog"])
    assert area(instances, "0.jpg", "dog") is area(instances, "0.jpg", "dog", "person") is None
    assert area(instances, "0.jpg", "person") == 9
    assert not instances.in_doubt("0.jpg", ["person"])
    assert not instances.in_doubt("1.jpg", ["dog"])
    assert area(instances, "1.jpg", "dog") == 16


def test_an_annotation_without_segmentation_is_rejected(tmp_path: Path, annotations: dict[str, Any]) -> None:
    del annotations["annotations"][0]["segmentation"]
    instances = opened(tmp_path, annotations)
    assert instances.findings.rejected == {"no_segmentation": 1}
    assert area(instances, "1.jpg", "dog") == 16


def test_an_unlisted_number_is_another_category(tmp_path: Path, annotations: dict[str, Any]) -> None:
    annotations["annotations"].append({"id": 80, "image_id": 0, "category_id": 999, "segmentation": OTHER})
    instances = opened(tmp_path, annotations)
    assert instances.findings.rejected == {"unknown_category": 1}
    assert area(instances, "0.jpg", "dog") == 16
    assert not instances.in_doubt("0.jpg", ["dog", "person"])


@pytest.mark.parametrize("category", [None, "dog", [18], float("nan"), True, {}])
def test_a_category_that_cannot_be_known_costs_its_image(
    tmp_path: Path, annotations: dict[str, Any], category: Any
) -> None:
    annotations["annotations"].append({"id": 80, "image_id": 0, "category_id": category, "segmentation": OTHER})
    instances = opened(tmp_path, annotations)
    assert instances.findings.rejected == {"bad_category_id": 1}
    assert instances.in_doubt("0.jpg", ["person"])
    assert not instances.in_doubt("0.jpg", [])
    assert (instances.present("0.jpg"), instances.truth("0.jpg", ["dog"])) == ([], None)
    assert area(instances, "1.jpg", "dog") == 16


@pytest.mark.parametrize("image", [None, 5, "x", [0], float("inf"), False])
def test_an_annotation_of_an_unknown_image_costs_itself(
    tmp_path: Path, annotations: dict[str, Any], image: Any
) -> None:
    annotations["annotations"].append({"id": 80, "image_id": image, "category_id": 18, "segmentation": OTHER})
    instances = opened(tmp_path, annotations)
    assert instances.findings.rejected == {"unknown_image": 1}
    assert area(instances, "0.jpg", "dog") == area(instances, "1.jpg", "dog") == 16


REPAIRS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "image id is a text": ("annotations", {"image_id": "0"}, {"id_in_another_form": 1}),
    "listed image id is a text": ("images", {"id": "0"}, {"id_in_another_form": 1}),
    "category id is a text": ("annotations", {"category_id": "18"}, {"id_in_another_form": 1}),
    "listed category id is a text": ("categories", {"id": "18"}, {"id_in_another_form": 2}),
    "ids are floats": ("annotations", {"image_id": 0.0, "category_id": 18.0}, {}),
    "size is a text": ("images", {"height": "10", "width": "10"}, {"size_not_as_integers": 1}),
    "size is a float": ("images", {"height": 10.0}, {"size_not_as_integers": 1}),
    "flat polygon": ("annotations", {"segmentation": SQUARE[0]}, {"flat_polygon": 1}),
    "file name in folders": ("images", {"file_name": "./0.jpg"}, {}),
    "no annotation id": ("annotations", {"id": None}, {}),
    "annotation id of another": ("annotations", {"id": 71}, {}),
    "no crowd flag": ("annotations", {"iscrowd": None}, {}),
    "box is nonsense": ("annotations", {"bbox": "nonsense"}, {}),
    "name with spaces": ("categories", {"name": " dog "}, {}),
}


@pytest.mark.parametrize(("table", "change", "repaired"), REPAIRS.values(), ids=REPAIRS.keys())
def test_a_value_in_another_form_is_read_and_counted(
    tmp_path: Path, annotations: dict[str, Any], table: str, change: dict[str, Any], repaired: dict[str, int]
) -> None:
    annotations[table][0] |= change
    instances = opened(tmp_path, annotations)
    assert (dict(instances.findings.repaired), dict(instances.findings.rejected)) == (repaired, {})
    assert area(instances, "0.jpg", "dog") == area(instances, "1.jpg", "dog") == 16


BAD_ENTRIES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "no image id": ({"id": None}, {"bad_image": 1, "unknown_image": 1}),
    "image id is a list": ({"id": []}, {"bad_image": 1, "unknown_image": 1}),
    "file name is a number": ({"file_name": 5}, {"bad_image": 1, "unknown_image": 1}),
    "file name is empty": ({"file_name": ""}, {"bad_image": 1, "unknown_image": 1}),
    "infinite height": ({"height": float("inf")}, {"bad_image_size": 1}),
    "no width": ({"width": None}, {"bad_image_size": 1}),
    "height 0": ({"height": 0}, {"bad_image_size": 1}),
    "half a pixel": ({"height": 10.5}, {"bad_image_size": 1}),
    "enormous": ({"height": 10**9, "width": 10**9}, {"bad_image_size": 1}),
}


@pytest.mark.parametrize(("change", "rejected"), BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_a_bad_image_entry_costs_its_annotations(
    tmp_path: Path, annotations: dict[str, Any], change: dict[str, Any], rejected: dict[str, int]
) -> None:
    annotations["images"][0] |= change
    instances = opened(tmp_path, annotations)
    assert instances.findings.rejected == rejected
    assert (instances.present("0.jpg"), instances.truth("0.jpg", ["dog"])) == ([], None)
    assert area(instances, "1.jpg", "dog") == 16


@pytest.mark.parametrize("change", [{"name": ""}, {"name": None}, {"id": None}, {"id": float("nan")}])
def test_a_bad_category_entry_costs_its_annotations(
    tmp_path: Path, annotations: dict[str, Any], change: dict[str, Any]
) -> None:
    annotations["categories"][0] |= change
    annotations["annotations"].append({"image_id": 0, "category_id": 1, "segmentation": OTHER})
    instances = opened(tmp_path, annotations)
    assert instances.findings.rejected == {"bad_category": 1, "unknown_category": 2}
    assert (instances.categories, instances.present("0.jpg")) == (["person"], ["person"])


def test_entries_that_are_no_objects_are_rejected(tmp_path: Path, annotations: dict[str, Any]) -> None:
    for entries in annotations.values():
        entries.insert(1, 5)
    instances = opened(tmp_path, annotations)
    assert instances.findings.rejected == {"bad_image": 1, "bad_category": 1, "bad_annotation": 1}
    assert any("annotation number 2: is int" in example for example in instances.findings.examples)
    assert area(instances, "1.jpg", "dog") == 16


def test_two_files_with_one_id_are_in_doubt(tmp_path: Path, annotations: dict[str, Any]) -> None:
    annotations["images"].insert(1, {"id": 0, "file_name": "2.jpg", "height": 10, "width": 10})
    instances = opened(tmp_path, annotations)
    assert instances.findings.rejected == {"duplicate_image_id": 2}
    assert all(instances.in_doubt(file, ["person"]) for file in ("0.jpg", "2.jpg"))
    assert area(instances, "1.jpg", "dog") == 16


def test_one_file_with_two_sizes_is_in_doubt(tmp_path: Path, annotations: dict[str, Any]) -> None:
    annotations["images"].append({"id": 5, "file_name": "0.jpg", "height": 20, "width": 5})
    instances = opened(tmp_path, annotations)
    assert instances.findings.rejected == {"duplicate_file_name": 2}
    assert (instances.present("0.jpg"), instances.in_doubt("0.jpg", ["person"])) == ([], True)


def test_one_file_with_two_ids_has_the_annotations_of_both(tmp_path: Path, annotations: dict[str, Any]) -> None:
    annotations["images"] += [{"id": n, "file_name": "0.jpg", "height": 10, "width": 10} for n in (0, 5)]
    annotations["annotations"].append({"image_id": 5, "category_id": 18, "segmentation": OTHER})
    instances = opened(tmp_path, annotations)
    assert not instances.findings.rejected
    assert (instances.files, area(instances, "0.jpg", "dog")) == (["0.jpg", "1.jpg"], 25)


def test_categories_of_one_name_are_one_category(tmp_path: Path, annotations: dict[str, Any]) -> None:
    annotations["categories"] += [{"id": 2, "name": "dog"}, {"id": 3, "name": "Dog"}]
    for key in (2, 3):
        annotations["annotations"].append({"image_id": 0, "category_id": key, "segmentation": OTHER})
    instances = opened(tmp_path, annotations)
    assert (instances.categories, instances.present("0.jpg")) == (["person", "dog"], ["dog"])
    assert area(instances, "0.jpg", "dog") == 25


def test_two_categories_with_one_id_are_in_doubt(tmp_path: Path, annotations: dict[str, Any]) -> None:
    annotations["categories"].append({"id": 18, "name": "cat"})
    instances = opened(tmp_path, annotations)
    assert instances.findings.rejected == {"duplicate_category_id": 1, "bad_category_id": 2}
    assert all(instances.in_doubt(file, ["cat"]) for file in instances.files)


def test_category_ids_may_be_numbers_and_texts(tmp_path: Path, annotations: dict[str, Any]) -> None:
    annotations["categories"].insert(0, {"id": "x", "name": "zebra"})
    assert opened(tmp_path, annotations).categories == ["person", "dog", "zebra"]


def test_examples_are_few_short_and_valid_utf8(tmp_path: Path, annotations: dict[str, Any]) -> None:
    annotations["annotations"] = [{"id": "\ud800" * 500, "image_id": 0, "category_id": 18}] * 50
    findings = opened(tmp_path, annotations).findings
    assert findings.rejected == {"no_segmentation": 50}
    assert len(findings.examples) == 3
    assert all(len(example.encode("utf-8")) < 2000 for example in findings.examples)


NO_COCO: dict[str, Any] = {
    "array": [],
    "number": 5,
    "no annotations": {"images": [], "categories": []},
    "annotations is an object": {"images": [], "categories": [], "annotations": {}},
    "annotations are numbers": {"images": [], "categories": [], "annotations": [1, 2]},
}


@pytest.mark.parametrize("content", NO_COCO.values(), ids=NO_COCO.keys())
def test_a_file_of_another_kind_is_an_error(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError, match=r"annotation file .*instances\.json has no list .*must be in COCO's format"):
        opened(tmp_path, content)


ids = st.sampled_from([0, 1, "0", "1", 0.0, 18, "18", 1.5, None, True, [], {}, "x", float("nan")])
sizes = st.sampled_from([10, 10.0, "10", 0, -1, None, 10**12, float("nan"), 12])
shapes = st.sampled_from(
    [SQUARE, OTHER, SQUARE[0], [], None, [[0, 0, 1]], [[0, 0, 99, 0, 99, 99]], {"size": [10, 10], "counts": [10, 90]}]
) | st.lists(st.lists(st.floats(width=32) | st.integers(-20, 20), max_size=8), max_size=2)
names = st.sampled_from(["0.jpg", "./0.jpg", "1.jpg", "", None, 5, "\ud800"])
noise = st.sampled_from([None, 5, "x", []])


def entries(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.fixed_dictionaries({}, optional=fields) | noise, max_size=6)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    images=entries(id=ids, file_name=names, height=sizes, width=sizes),
    categories=entries(id=ids, name=st.sampled_from(["dog", "Dog", "person", "", None])),
    annotations=entries(id=ids, image_id=ids, category_id=ids, segmentation=shapes),
)
def test_any_file_is_read_or_is_no_coco_file(tmp_path: Path, **lists: list[Any]) -> None:
    try:
        instances = opened(tmp_path, lists)
    except DataError:
        assert any(items and not any(isinstance(item, dict) for item in items) for items in lists.values())
        return
    good = sum(len(masks) for found in instances._masks.values() for masks in found.values())
    left_out = instances.findings.rejected
    of_lists = ("bad_image", "bad_category", "duplicate_category_id")
    assert good + left_out.total() >= len(lists["annotations"])
    if not left_out["duplicate_image_id"] + left_out["duplicate_file_name"]:
        assert good + sum(n for reason, n in left_out.items() if reason not in of_lists) == len(lists["annotations"])
    for file in instances.files:
        for name in instances.categories:
            truth = instances.truth(file, [name])
            assert (truth is not None) == (name in instances.present(file))
            if truth is not None:
                mask = np.asarray(coco.decode({"size": [truth.height, truth.width], "counts": truth.rle}))
                assert mask.any()
                assert {truth.height, truth.width} <= {10, 12}
                assert not instances.in_doubt(file, [name])
