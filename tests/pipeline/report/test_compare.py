"""The comparison of two artifacts of masks: every row is counted once, and the page shows what differs."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.errors import ArtifactError
from model.teachers import rle
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.masks.config import MaskGates
from pipeline.report.compare import PICTURES, compare
from pipeline.report.compare_page import compare_page
from pipeline.report.find_images import find_images
from pipeline.schemas import MASKS, part_name
from pipeline.steps.runner import run_job
from tests.pipeline.masks.fixtures_dataset import Dataset, make_dataset
from tests.pipeline.report.fixtures_mask_artifacts import make_masks
from tests.pipeline.report.test_page import Reader
from tests.pipeline.steps.test_masks import publish_segments


def square(first: int, side: int = 4) -> str:
    mask = np.zeros((16, 16), bool)
    mask[:side, first : first + side] = True
    return rle.encode(mask)


def mask_row(number: int, counts: str | None, reason: str = "", **changes: Any) -> dict[str, Any]:
    status = (
        "ok" if counts else "low_quality" if reason.startswith(("min", "max")) else "error" if reason else "no_region"
    )
    row = dict.fromkeys(MASKS.names) | {"sample_id": f"s{number}", "turn": 0, "query_kind": "caption", "status": status}
    row |= {"image_sha256": f"{number:064x}", "height": 16, "width": 16, "query": f"thing {number}", "reason": reason}
    return row | {"rle": counts, "area": rle.area(counts, 16, 16) if counts else None} | changes


def publish(
    store: ArtifactStore, rows: list[dict[str, Any]], parts: int = 2, kind: str = "masks", **gates: Any
) -> Artifact:
    spec = StepSpec(step=kind, revision=1, params={"gates": {"try": gates or len(rows)}}, inputs={})
    staging = Staging(store, ArtifactRef(kind=kind, name="pretrain", id=spec.id()), spec, 0, {})
    for index in range(parts):
        staging.write_table(part_name(index, parts), pa.Table.from_pylist(rows[index::parts], schema=MASKS))
    return staging.publish(Counts(unit="query", rows_in=len(rows), rows_out=len(rows)))


BEFORE = [
    mask_row(0, square(0)),  # stays
    mask_row(1, square(0)),  # moves by half: IoU 1/3
    mask_row(2, square(0)),  # lost at a gate
    mask_row(3, None, "min_area"),  # gained
    mask_row(4, None),  # no region, now an error
    mask_row(5, square(0)),  # only before
    mask_row(6, square(0)),  # another frame
    mask_row(7, None, "min_area"),  # stays without
]
AFTER = [
    mask_row(7, None, "min_area"),
    mask_row(6, square(0), height=32, width=32),
    mask_row(0, square(0), query="thing zero"),
    mask_row(1, square(2)),
    mask_row(2, None, "min_sam_iou"),
    mask_row(3, square(0)),
    mask_row(4, None, "image_changed: x"),
    mask_row(8, None),  # only after
]


def test_every_row_is_counted_by_what_happened_to_it(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    found = compare(publish(store, BEFORE, tried=1), publish(store, AFTER, parts=3, tried=2))
    assert (found.both, found.only_before.total(), found.only_after.total()) == (7, 1, 1)
    assert (dict(found.only_before), dict(found.only_after)) == ({"ok": 1}, {"no_region": 1})
    assert (found.lost, found.gained) == ({"min_sam_iou": 1}, {"min_area": 1})
    assert found.other_moves == {("no_region", "image_changed"): 1}
    assert (found.other_text, found.other_frame, found.equal) == (1, 1, 1)
    assert found.ious == pytest.approx([1.0, 1 / 3])
    assert found.settings() == [("try", {"tried": 1}, {"tried": 2})]
    assert [(c.kind, c.before["sample_id"]) for c in found.pictures()] == [
        ("lost", "s2"),
        ("gained", "s3"),
        ("changed", "s1"),
    ]
    assert found.pictures()[2].rank[1] == pytest.approx(16 / 256)  # two strips of 2 x 4 pixels


def test_masks_are_equal_to_themselves(tmp_path: Path) -> None:
    masks = publish(ArtifactStore(str(tmp_path)), BEFORE)
    found = compare(masks, masks)
    assert found.moves.total() == len(BEFORE)
    assert (found.lost, found.gained, found.changes, found.settings()) == ({}, {}, [], [])
    assert found.nothing_changed
    page = compare_page(found)
    assert "<h1>Nothing changed</h1>" in page
    assert "No picture differs" in page


@pytest.mark.parametrize(
    "change",
    [
        {"query": "another"},
        {"rle": square(1)},
        {"status": "low_quality", "rle": None, "reason": "min_area"},
        {"turn": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_one_other_row_is_a_change(tmp_path: Path, change: dict[str, Any]) -> None:
    store, rows = ArtifactStore(str(tmp_path)), BEFORE[:3]
    after = publish(store, [rows[0] | change, *rows[1:]], tried=2)
    assert not compare(publish(store, rows, tried=1), after).nothing_changed


def test_other_subsets_and_nothing_at_all_can_be_compared(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    empty, some = publish(store, []), publish(store, BEFORE)
    found = compare(empty, some)
    assert (found.both, found.only_after.total(), found.agreement) == (0, len(BEFORE), {"count": 0})
    assert compare(some, empty).only_before.total() == len(BEFORE)
    assert "<html" in compare_page(compare(empty, empty))


def test_settings_that_a_teacher_does_not_read_are_no_difference(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, scenes=1)
    read = {"kind": "truth", "shard_images": 3, "max_query_characters": 400}
    made = [
        run_job(dataset.masks_job(publish_segments(dataset, {}, params={"teacher": teacher}), MaskGates()))
        for teacher in (read | {"beams": 1}, read | {"kind": "florence_sam", "beams": 1})
    ]
    assert compare(*made).settings() == [("beams", None, 1), ("kind", "truth", "florence_sam")]


def test_the_order_and_the_number_of_parts_change_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    before = publish(store, BEFORE, tried=1)
    one, other = publish(store, AFTER, tried=2), publish(store, AFTER[::-1], parts=5, tried=3)
    first, second = compare(before, one), compare(before, other)
    assert first.moves == second.moves
    assert [c.before for c in first.pictures()] == [c.before for c in second.pictures()]


def test_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    masks, other = publish(store, BEFORE), publish(store, BEFORE, kind="segments")
    for pair in ((masks, other), (other, masks)):
        with pytest.raises(ArtifactError, match=r"segments/pretrain/\w+ is of kind segments.*agevlm artifacts"):
            compare(*pair)


def test_at_most_fifty_pictures_are_shown_each_once(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    before = [mask_row(n, square(0), image_sha256=f"{n // 2:064x}") for n in range(300)]
    after = [mask_row(n, square(n % 5) if n % 3 else None, "" if n % 3 else "min_area") for n in range(300)]
    shown = compare(publish(store, before, tried=1), publish(store, after, tried=2)).pictures()
    assert len(shown) == PICTURES == len({c.before["image_sha256"] for c in shown})
    assert {c.kind for c in shown} == {"lost", "changed"}
    changed = [c.iou for c in shown if c.kind == "changed"]
    assert changed == sorted(changed)


def test_a_large_comparison_takes_little_time(tmp_path: Path) -> None:
    store, number = ArtifactStore(str(tmp_path)), 20_000
    before = [mask_row(n, square(n % 3)) for n in range(number)]
    after = [mask_row(n, square(n % 5)) for n in range(number)]
    first, second = publish(store, before, tried=1), publish(store, after, tried=2)
    started = time.process_time()
    assert compare(first, second).both == number
    assert time.process_time() - started < 60 / 150_000 * number


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Artifact, Artifact]:
    dataset = make_dataset(tmp_path_factory.mktemp("masks"), scenes=10)
    first = make_masks(dataset, 0, MaskGates(), job="first-r0")
    return dataset, first, make_masks(dataset, 1, MaskGates(min_sam_iou=0.4), job="second-r0")


def test_the_page_shows_the_images_that_differ_and_the_settings(noisy: tuple[Dataset, Artifact, Artifact]) -> None:
    _, before, after = noisy
    found = compare(before, after)
    page = compare_page(found)
    reader = Reader(page)
    assert not [tag for tag in reader.tags if tag in ("script", "iframe", "object")]
    assert all(load.startswith("data:") for load in reader.loads)
    assert reader.unnamed == []
    assert "could not be found" not in reader.text
    for words in ("min_sam_iou", "Find {query}, try 1", str(before.ref), str(after.ref)):
        assert words in reader.text
    assert reader.tags.count("img") == 2 * len(found.pictures()) > 0


def test_images_that_are_gone_are_drawn_on_grey_and_texts_are_escaped(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    evil = '<script>alert("x")</script><img src=x onerror=1>'
    before = [mask_row(1, square(0), query=evil, sample_id=evil)]
    after = [mask_row(1, None, f"Error: {evil}", query=evil, sample_id=evil)]
    page = compare_page(compare(publish(store, before, tried=evil), publish(store, after, tried=2)))
    reader = Reader(page)
    assert "script" not in reader.tags
    assert reader.handlers == []
    assert evil in reader.text
    assert "1 image could not be found" in reader.text


def test_images_are_found_by_the_job_file_of_the_masks(noisy: tuple[Dataset, Artifact, Artifact]) -> None:
    dataset, before, _ = noisy
    rows = [{"sample_id": q["sample_id"], "image_sha256": q["image_sha256"]} for q in dataset.queries.to_pylist()[:3]]
    found = find_images(before, rows)
    assert found["sample-000"] == (dataset.images / "0.jpg").read_bytes()
    assert find_images(before, [{"sample_id": "sample-000", "image_sha256": "0" * 64}]) == {}
