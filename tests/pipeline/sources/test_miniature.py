"""The miniature world as a raw data set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

import pipeline.sources.miniature as miniature
from model.miniature.language import questions
from model.miniature.world import COLOURS, make_scene, render
from pipeline.sources.config import MiniatureSource
from pipeline.sources.miniature import MAX_TURNS, open_miniature
from pipeline.sources.records import Record
from tests.pipeline.sources.fixtures_rows import entries_of

SEED, SCENES = 4_000_000, 12


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def records_of(kind: str, scratch: Path) -> list[Record]:
    source = MiniatureSource.model_validate({"records": kind, "scenes": SCENES, "seed": SEED})
    entries = entries_of(open_miniature(source, scratch).reader)
    assert all(isinstance(entry, Record) for entry in entries)
    return [entry for entry in entries if isinstance(entry, Record)]


def test_captions_are_one_record_per_scene_with_the_masks_of_the_named_objects(scratch: Path) -> None:
    records = records_of("captions", scratch)
    assert len(records) == SCENES
    for number, record in enumerate(records):
        scene = make_scene(SEED + number)
        _, masks = render(scene)
        (turn,), (truth,) = record.turns, record.truth or (None,)
        assert truth is not None
        named = [item.name in turn.answer for item in scene.objects]
        found = coco.decode({"size": [truth.height, truth.width], "counts": truth.rle})
        assert np.array_equal(found.astype(bool), masks[named].any(axis=0))


def test_all_questions_are_in_the_records_and_some_records_have_several_turns(scratch: Path) -> None:
    records = records_of("questions", scratch)
    turns = [((r.image or "").removeprefix("./"), t.question, t.answer) for r in records for t in r.turns]
    expected = [
        (f"{s:09d}.jpg", q.question, q.answer) for s in range(SEED, SEED + SCENES) for q in questions(make_scene(s))
    ]
    assert turns == expected
    assert {len(record.turns) for record in records} == set(range(1, MAX_TURNS + 1))
    truths = [truth for record in records for truth in record.truth or ()]
    absent = [truth for truth in truths if truth is not None and not truth.present]
    assert absent
    assert all(truth.rle is None for truth in absent)
    assert all("no " in answer for (_, _, answer), truth in zip(turns, truths, strict=True) if truth in absent)


def test_images_have_each_objects_colour_under_its_mask(scratch: Path) -> None:
    source = MiniatureSource(records="captions", scenes=SCENES, seed=SEED)
    reader = open_miniature(source, scratch)
    for number in range(3):
        scene = make_scene(SEED + number)
        _, masks = render(scene)
        pixels = np.asarray(Image.open(reader.images / f"{SEED + number:09d}.jpg"))
        for item, mask in zip(scene.objects, masks, strict=True):
            assert np.abs(pixels[mask].mean(axis=0) - COLOURS[item.colour]).max() < 45


def test_it_is_rendered_once_and_never_left_incomplete(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = MiniatureSource(records="captions", scenes=3, seed=SEED)
    records = open_miniature(source, tmp_path).reader
    folders = list((tmp_path / "miniature").iterdir())
    assert len(folders) == 1
    before = {path: path.stat().st_mtime_ns for path in folders[0].rglob("*")}
    assert entries_of(open_miniature(source, tmp_path).reader) == entries_of(records)
    assert {path: path.stat().st_mtime_ns for path in folders[0].rglob("*")} == before

    def fail(*args: object) -> object:
        raise RuntimeError("killed")

    monkeypatch.setattr(miniature, "_truth", fail)
    with pytest.raises(RuntimeError, match="killed"):
        open_miniature(source.model_copy(update={"seed": SEED + 50}), tmp_path)
    assert list((tmp_path / "miniature").iterdir()) == folders


def test_two_data_sets_have_two_folders_and_the_same_one_has_the_same_bytes(tmp_path: Path) -> None:
    first = MiniatureSource(records="captions", scenes=2, seed=SEED)
    other = MiniatureSource(records="questions", scenes=2, seed=SEED)
    a, b = open_miniature(first, tmp_path / "a"), open_miniature(first, tmp_path / "b")
    assert open_miniature(other, tmp_path / "a").images != a.images
    assert a.images.parent.name == b.images.parent.name
    for file in sorted(path for path in a.images.parent.rglob("*") if path.is_file()):
        assert file.read_bytes() == (b.images.parent / file.relative_to(a.images.parent)).read_bytes()
