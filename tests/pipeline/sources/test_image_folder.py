"""Folders of images with annotations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

import pipeline.sources.lines as lines
from model.errors import ConfigError, DataError
from pipeline.sources.config import FolderSource
from pipeline.sources.image_folder import in_split, open_image_folder
from pipeline.sources.images.references import tidy
from pipeline.sources.records import Entry, Record, Rejected, Truth
from tests.pipeline.sources.fixtures_rows import entries_of

PHOTOS = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco_mini"
FILES = [f"{n}.jpg" for n in range(12)]
CROWD = [0] + [5] * 20  # run lengths, column by column, of a 10 x 10 image: five on, five off


def square(x: int, y: int, side: int = 4) -> list[list[int]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


@pytest.fixture
def annotations(tmp_path: Path) -> dict[str, Any]:
    """Twelve images of 10 x 10 pixels: a dog in each, two crowded people in every third, a cat in the first."""
    (tmp_path / "images").mkdir()
    images = [{"id": n, "file_name": name, "height": 10, "width": 10} for n, name in enumerate(FILES)]
    categories = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 17, "name": "cat"}]
    categories += [{"id": 52, "name": "apple"}, {"id": 99, "name": "unicorn"}]
    marks = [{"image_id": n, "category_id": 18, "segmentation": square(1, 1), "iscrowd": 0} for n in range(12)]
    marks += [
        {"image_id": n, "category_id": 1, "segmentation": {"size": [10, 10], "counts": CROWD}, "iscrowd": 1}
        for n in range(0, 12, 3)
    ]
    marks.append({"image_id": 0, "category_id": 17, "segmentation": square(6, 6, 3) + square(0, 6, 2), "iscrowd": 0})
    marks.append({"image_id": 1, "category_id": 52, "segmentation": square(6, 0, 3), "iscrowd": 0})
    captions = [
        {"image_id": 0, "id": 100, "caption": "A dog and a cat.\n"},
        {"image_id": 0, "id": 101, "caption": "Nothing of note."},
        {"image_id": 3, "id": 102, "caption": "Some people."},
        {"image_id": 2, "id": 103, "caption": ""},
    ]
    instances = {"images": images, "categories": categories, "annotations": marks}
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return instances


def source(folder: Path, **changes: Any) -> FolderSource:
    values = {"images": folder / "images", "captions": folder / "captions.json", "instances": folder / "instances.json"}
    return FolderSource.model_validate({k: str(v) for k, v in values.items()} | changes)


def records_of(entries: list[Entry]) -> list[Record]:
    assert all(isinstance(entry, Record) for entry in entries), entries
    return [entry for entry in entries if isinstance(entry, Record)]


def only_truth(record: Record) -> Truth | None:
    assert record.truth is not None
    (truth,) = record.truth
    return truth


def pixels(truth: Truth) -> np.ndarray[Any, Any]:
    return np.asarray(coco.decode({"size": [truth.height, truth.width], "counts": truth.rle})).astype(bool)


@pytest.mark.usefixtures("annotations")
def test_captions_have_the_masks_of_the_categories_that_they_mention(tmp_path: Path) -> None:
    both, nothing, people, empty = entries_of(open_image_folder(source(tmp_path)))
    assert isinstance(empty, Rejected)
    assert empty.reason == "empty_text"
    assert "annotation 103" in empty.detail
    both, nothing, people = records_of([both, nothing, people])
    assert both.turns[0].answer == "A dog and a cat."
    assert (both.image, both.given_id) == ("0.jpg", "100")
    expected = np.zeros((10, 10), bool)
    expected[1:5, 1:5] = expected[6:9, 6:9] = expected[6:8, 0:2] = True
    union = only_truth(both)
    assert union is not None
    assert np.array_equal(pixels(union), expected)
    assert only_truth(nothing) is None
    crowd = only_truth(people)
    assert crowd is not None
    assert pixels(crowd)[:5].all()
    assert not pixels(crowd)[5:].any()


@pytest.mark.usefixtures("annotations")
def test_existence_questions_are_balanced_true_and_well_worded(tmp_path: Path) -> None:
    folder = open_image_folder(source(tmp_path, records="existence"))
    records = records_of(entries_of(folder))
    assert entries_of(folder) == records
    present = {f"{n}.jpg": {"dog"} for n in range(12)}
    for n in range(0, 12, 3):
        present[f"{n}.jpg"].add("person")
    present["0.jpg"].add("cat")
    present["1.jpg"].add("apple")
    for record in records:
        (turn,), truth = record.turns, only_truth(record)
        name = next(name for name in ("dog", "person", "cat", "apple") if f" {name} in the image" in turn.question)
        there = name in present[record.image or ""]
        assert truth is not None
        assert truth.present == there == turn.answer.startswith("Yes, ")
        assert turn.answer.startswith(("Yes, there is a", f"No, there is no {name} in"))
        assert turn.question == "Is there an apple in the image?" or name != "apple"
        assert (truth.rle is None) == (not there)
    for image, names in present.items():
        answers = [r.turns[0].answer for r in records if r.image == image]
        no = sum(answer.startswith("No") for answer in answers)
        assert len(answers) - no == len(names)
        assert no == min(len(names), 4 - len(names)) or no >= 1


@pytest.mark.usefixtures("annotations")
def test_splits_share_no_image_and_cover_all(tmp_path: Path) -> None:
    images = {}
    for split in ("all", "train", "test"):
        entries = entries_of(open_image_folder(source(tmp_path, records="existence", split=split)))
        images[split] = {tidy(record.image or "") for record in records_of(list(entries))}
    assert images["train"] | images["test"] == images["all"] == set(FILES)
    assert not images["train"] & images["test"]
    spelled = {"\n".join(["image,caption", *(f"{spelling}{name},A dog." for name in FILES)]) for spelling in ("", "./")}
    for number, text in enumerate(spelled):
        (tmp_path / f"{number}.csv").write_text(text)
        captions = entries_of(
            open_image_folder(source(tmp_path, captions=str(tmp_path / f"{number}.csv"), split="test"))
        )
        assert {tidy(record.image or "") for record in records_of(list(captions))} == images["test"]
    names = [f"{n:012d}.jpg" for n in range(2000)]
    assert 0.2 < sum(in_split(name, "test") for name in names) / len(names) < 0.3


@pytest.mark.usefixtures("annotations")
def test_captions_as_csv_and_json_lines(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('id,image,caption\n7,0.jpg,"A dog, sitting."\n8,1.jpg,\n', encoding="utf-8")
    (tmp_path / "c.jsonl").write_text('{"image": "0.jpg", "caption": "A dog, sitting."}\n\nnonsense\n[1]\n')
    for name, kinds in (("c.csv", [Record, Rejected]), ("c.jsonl", [Record, Rejected, Rejected])):
        entries = entries_of(open_image_folder(source(tmp_path, captions=str(tmp_path / name), instances=None)))
        assert [type(entry) for entry in entries] == kinds
        first = entries[0]
        assert isinstance(first, Record)
        assert first.turns[0].answer == "A dog, sitting."
        assert first.truth is None
    assert (
        entries[0].sample_id
        == entries_of(open_image_folder(source(tmp_path, captions=str(tmp_path / "c.csv"))))[0].sample_id
    )


def test_missing_or_malformed_files_are_named(tmp_path: Path, annotations: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="needs 'instances'"):
        open_image_folder(source(tmp_path, records="existence", instances=None))
    with pytest.raises(ConfigError, match="needs 'captions'"):
        open_image_folder(source(tmp_path, captions=None))
    with pytest.raises(DataError, match="image folder"):
        open_image_folder(source(tmp_path, images=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"nothing\.json cannot be read \(No such file"):
        open_image_folder(source(tmp_path, instances=str(tmp_path / "nothing.json")))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        open_image_folder(source(tmp_path, instances=str(tmp_path / "bad.json")))
    (tmp_path / "bad.json").write_text('{"images": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(DataError, match=r"bad\.json is not JSON: maximum recursion depth"):
        open_image_folder(source(tmp_path, instances=str(tmp_path / "bad.json")))
    with pytest.raises(DataError, match=r"images cannot be read \(Is a directory\)"):
        open_image_folder(source(tmp_path, instances=str(tmp_path / "images")))
    (tmp_path / "bad.json").write_text(json.dumps({"images": []}))
    with pytest.raises(DataError, match="has no list 'annotations'"):
        open_image_folder(source(tmp_path, instances=str(tmp_path / "bad.json")))
    with pytest.raises(DataError, match=r"annotation file .*nothing\.csv does not exist"):
        open_image_folder(source(tmp_path, captions=str(tmp_path / "nothing.csv")))


@pytest.mark.usefixtures("annotations")
def test_a_setting_without_effect_is_refused(tmp_path: Path) -> None:
    for changes in ({}, {"records": "existence", "captions": None}):
        with pytest.raises(ConfigError, match="caption_column names a column of a CSV"):
            open_image_folder(source(tmp_path, caption_column="text", **changes))
    with pytest.raises(ConfigError, match="annotation_frame says what the masks of 'instances'"):
        open_image_folder(source(tmp_path, annotation_frame="stored", instances=None))


def test_truth_that_depends_on_a_rejected_annotation_is_left_out(tmp_path: Path, annotations: dict[str, Any]) -> None:
    cat = next(mark for mark in annotations["annotations"] if mark["category_id"] == 17)
    cat |= {"id": 500, "segmentation": None}
    (tmp_path / "instances.json").write_text(json.dumps(annotations))
    folder = open_image_folder(source(tmp_path))
    both, _, people = records_of([entry for entry in entries_of(folder) if isinstance(entry, Record)])
    assert (both.truth, both.truth_in_doubt) == ((None,), 1)
    assert (only_truth(people) is not None, people.truth_in_doubt) == (True, 0)
    assert folder.findings[0] == {"annotations_rejected": {"no_segmentation": 1}}
    (example,) = folder.findings[1]
    assert f"{tmp_path / 'instances.json'}, annotation 500: has no segmentation" in example


def test_nothing_is_asked_about_a_category_in_doubt(tmp_path: Path, annotations: dict[str, Any]) -> None:
    """Neither as there nor as not there; the other images and categories keep their questions."""
    asked = {}
    for broken in (False, True):
        if broken:
            for mark in annotations["annotations"]:
                if mark["category_id"] == 18 and mark["image_id"] % 3 == 0:  # the dogs beside the people
                    mark["segmentation"] = [[1, 1, 2]]
            (tmp_path / "instances.json").write_text(json.dumps(annotations))
        entries = entries_of(open_image_folder(source(tmp_path, records="existence")))
        asked[broken] = {record.given_id for record in records_of(list(entries))}
    for n in range(12):
        assert f"{n}.jpg:dog" in asked[False]
        assert (f"{n}.jpg:dog" in asked[True]) == (n % 3 != 0)
    for n in range(0, 12, 3):
        assert f"{n}.jpg:person" in asked[True]
        assert any(name in asked[True] for name in (f"{n}.jpg:cat", f"{n}.jpg:apple"))


def test_a_reader_without_instances_has_nothing_to_say_of_them(tmp_path: Path, annotations: dict[str, Any]) -> None:
    folder = open_image_folder(source(tmp_path, instances=None))
    assert (folder.knows_truth, folder.findings) == (False, ({}, []))
    assert all(entry.truth_in_doubt == 0 for entry in entries_of(folder) if isinstance(entry, Record))


LOST: dict[str, Any] = {"null": None, "empty": "", "nan": "nan", "None": "None"}


@pytest.mark.parametrize("image", LOST.values(), ids=LOST.keys())
def test_a_caption_without_an_image_is_rejected(tmp_path: Path, annotations: dict[str, Any], image: Any) -> None:
    (tmp_path / "c.csv").write_text(f"caption,image\nA dog.,{'' if image is None else image}\n")
    (tmp_path / "c.jsonl").write_text(json.dumps({"image": image, "caption": "A dog."}) + '\n{"caption": "A dog."}\n')
    for name in ("c.csv", "c.jsonl"):
        for entry in entries_of(open_image_folder(source(tmp_path, captions=str(tmp_path / name)))):
            assert isinstance(entry, Rejected)
            assert entry.reason == "no_image_reference"


def test_one_bad_caption_does_not_affect_others(tmp_path: Path, annotations: dict[str, Any]) -> None:
    """In a COCO file, which may hold NaN and infinity when Python wrote it."""
    images = [*annotations["images"], {"id": 77, "file_name": "\ud800.jpg"}]
    bad: list[dict[str, Any]] = [
        {"image_id": 1, "id": 0, "caption": float("nan")},
        {"image_id": 1, "id": "\ud800", "caption": "\ud800"},
        {"image_id": 1, "id": 1, "caption": 5},
        {"image_id": 1, "id": 2},
        {"image_id": 99, "id": 3, "caption": "The image is not listed."},
        {"image_id": [], "id": 4, "caption": "The image id is a list."},
        {"id": 5, "caption": "There is no image id."},
    ]
    rows = [*bad, {"image_id": 1, "id": 6, "caption": "Good."}]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": rows}))
    entries = entries_of(open_image_folder(source(tmp_path)))
    assert [getattr(entry, "reason", "") for entry in entries] == [
        *("malformed_json", "bad_text", "bad_conversation", "bad_conversation"),
        *("no_image_reference", "no_image_reference", "no_image_reference", ""),
    ]


def test_json_lines_of_captions_have_the_same_limits_as_cambrians(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    good = '{"image": "0.jpg", "caption": "A dog."}'
    bad = ['{"image": NaN, "caption": "x"}', '{"image": 1e999, "caption": "x"}', '{"image": "x", "caption": NaN}']
    text = "\n".join([*bad, '{"image": "0.jpg", "caption": "' + "x" * 900 + '"}', good])
    (tmp_path / "c.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    monkeypatch.setattr(lines, "MAX_LINE", 300)
    found = entries_of(open_image_folder(source(tmp_path, captions=str(tmp_path / "c.jsonl"), instances=None)))
    reasons = ["no_image_reference", "malformed_json", "malformed_json"]
    assert [getattr(entry, "reason", "") for entry in found] == [*reasons, "line_too_long", ""]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["0.jpg", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
captions_rows = st.lists(st.dictionaries(st.sampled_from(["image", "image_id", "id", "caption"]), anything), max_size=5)


@settings(max_examples=150, deadline=None)
@given(captions_rows, st.sampled_from(["all", "train", "test"]))
def test_any_rows_are_records_or_rejections(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], split: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "images").mkdir()
    (folder / "c.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    images = [{"id": 0, "file_name": "0.jpg"}]
    (folder / "c.json").write_text(json.dumps({"images": images, "annotations": rows}))
    for name in ("c.jsonl", "c.json"):
        kind = source(folder, captions=str(folder / name), instances=None, split=split)
        found = entries_of(open_image_folder(kind))
        assert all(isinstance(entry, Record | Rejected) and len(entry.sample_id) == 64 for entry in found)
        assert all(entry.image is not None for entry in found if isinstance(entry, Record))
        if split == "all":
            assert len(found) == len(rows)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photographs in ../shared/data/coco_mini are not here")
def test_real_photographs() -> None:
    values = {
        "images": str(PHOTOS / "images" / "train2017"),
        "captions": str(PHOTOS / "annotations" / "captions_train2017.json"),
        "instances": str(PHOTOS / "annotations" / "instances_train2017.json"),
    }
    captions = records_of(entries_of(open_image_folder(FolderSource.model_validate(values))))
    assert len(captions) == 130
    known = [truth for record in captions if (truth := only_truth(record)) is not None]
    assert len(known) >= 100
    assert all(pixels(truth).any() for truth in known[:20])
    asked = records_of(entries_of(open_image_folder(FolderSource.model_validate(values | {"records": "existence"}))))
    yes = sum(record.turns[0].answer.startswith("Yes") for record in asked)
    assert 2 * yes == len(asked) == 230
