"""inventory: every record is accounted for, whatever is in it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pipeline.sources.inspection as inspection
import pipeline.steps.inventory as inventory
from model.errors import DataError
from pipeline.artifacts.store import Artifact
from pipeline.schemas import RECORDS, TRUTH
from pipeline.sources.config import FolderSource, MiniatureSource
from pipeline.sources.images import ImageFacts
from pipeline.sources.index import build_index
from pipeline.sources.opening import open_source
from pipeline.steps.context import work_folder
from tests.pipeline.sources.pictures import animated, bomb, encoded, halves, rotated_by_exif
from tests.pipeline.steps.workshop import Workshop, cambrian, chat, rejects, table

CHAT = chat(("<image>\nWhat is it?", "Two halves."))


def messy(folder: Path) -> Workshop:
    """Good records, and one of each bad kind."""
    images = folder / "images"
    images.mkdir(parents=True)
    files: dict[str, bytes] = {
        "good.jpg": encoded(halves(), "JPEG"),
        "really_a_png.jpg": encoded(halves()),
        "turned.jpg": rotated_by_exif(6),
        "moving.gif": animated(),
        "empty.jpg": b"",
        "cut.jpg": encoded(halves(300, 300), "JPEG")[:900],
        "page.jpg": b"<html>not found</html>",
        "bomb.png": bomb(),
    }
    for name, content in files.items():
        (images / name).write_bytes(content)
    (images / "out.jpg").symlink_to("/etc/hostname")
    names = [*files, "out.jpg", "../x.jpg", "/etc/passwd", "http://h/x.jpg", "missing.jpg"]
    lines: list[dict[str, Any] | str] = [{"id": name, "image": name, "conversations": CHAT} for name in names]
    lines += [
        "{ not json",
        {"id": "talk", "conversations": chat(("Hi", "Hello"))},
        {"id": "silent", "image": "good.jpg", "conversations": chat(("<image>", " "))},
        {"id": "again", "image": "./good.jpg", "conversations": chat(("What colour?", "Red and blue."), ("Q", "A"))},
        {"id": "a copy", "image": "good.jpg", "conversations": CHAT},
    ]
    return Workshop(folder, cambrian(folder, lines))


def test_every_line_is_a_row_or_a_reject_with_its_reason(tmp_path: Path) -> None:
    workshop = messy(tmp_path)
    artifact = workshop.inventory(max_reject_share=0.7)
    counts = artifact.manifest.counts
    assert (counts.unit, counts.rows_in, counts.rows_out, counts.not_selected) == ("record", 18, 7, 0)
    assert counts.rejected == {
        "empty_file": 1,
        "truncated": 1,
        "not_an_image": 1,
        "too_many_pixels": 1,
        "unsafe_path": 4,
        "missing_image": 1,
        "malformed_json": 1,
        "empty_answer": 1,
    }
    assert {reason: len(details) for reason, details in rejects(artifact).items()} == counts.rejected
    assert rejects(artifact)["malformed_json"][0].startswith("line 14: ")
    records = table(artifact, "records/")
    assert records.schema.equals(RECORDS)
    rows = {row["given_id"]: row for row in records.to_pylist()}
    assert list(rows) == ["good.jpg", "really_a_png.jpg", "turned.jpg", "moving.gif", "talk", "again", "a copy"]
    assert (rows["turned.jpg"]["width"], rows["turned.jpg"]["height"]) == (20, 40)
    good = rows["good.jpg"]
    assert good["image_sha256"] == hashlib.sha256((tmp_path / "images" / "good.jpg").read_bytes()).hexdigest()
    assert good["turns"] == [{"question": "What is it?", "answer": "Two halves."}]
    assert rows["again"]["image"] == "good.jpg"
    assert rows["again"]["image_sha256"] == good["image_sha256"]
    assert rows["a copy"]["sample_id"] == good["sample_id"] + "#1"
    talk = rows["talk"]
    assert (talk["has_image"], talk["image"], talk["image_sha256"], talk["width"]) == (False, None, None, None)
    assert not artifact.matching("truth/")
    assert artifact.manifest.statistics == {
        "turns": 8,
        "with_image": 6,
        "text_only": 1,
        "exact_copies": 1,
        "images_named": 13,
    }


def test_too_many_rejects_fail_with_counts_examples_and_remedy(tmp_path: Path) -> None:
    workshop = messy(tmp_path)
    with pytest.raises(DataError) as caught:
        workshop.inventory(max_reject_share=0.3)
    message = str(caught.value)
    assert "11 of 18 records of data.pretrain were rejected, more than max_reject_share = 0.3" in message
    assert "  unsafe_path: 4" in message
    assert "empty.jpg" in message
    assert "allow more with max_reject_share" in message
    assert workshop.store.get(workshop.job("inventory", _params(workshop, 0.3)).ref) is None


def _params(workshop: Workshop, share: float) -> dict[str, Any]:
    source = {"kind": "cambrian"}
    return {"source": source, "limit": None, "seed": 0, "max_reject_share": share, "fingerprint": "raw"}


def test_a_limit_takes_some_and_counts_the_rest(tmp_path: Path) -> None:
    artifact = messy(tmp_path).inventory(limit=5, max_reject_share=1.0)
    counts = artifact.manifest.counts
    assert (counts.rows_in, counts.not_selected) == (18, 13)
    assert counts.rows_out + counts.total_rejected == 5


def test_an_empty_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.pretrain holds no records"):
        Workshop(tmp_path, cambrian(tmp_path, [])).inventory()


def test_a_data_set_without_a_good_record_is_an_error_whatever_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 2 records .* nothing would be left:\n  malformed_json: 2"):
        Workshop(tmp_path, cambrian(tmp_path, ["{", "{"])).inventory(max_reject_share=1.0)


def test_details_that_utf8_cannot_write_are_spelled_out_and_cut(tmp_path: Path) -> None:
    talk = [{"from": "\ud800" * 5000, "value": "Q"}, {"from": "gpt", "value": "A"}]
    good: dict[str, Any] = {"conversations": chat(("Q", "A"))}
    (tmp_path / "images").mkdir()
    (tmp_path / "captions.json").write_text(
        json.dumps({"images": [], "annotations": [{"id": "\ud800", "caption": "x"}]})
    )
    for source in (
        cambrian(tmp_path, [{"conversations": [{"from": "human", "value": "Q"}, *talk]}, good]),
        FolderSource(images=str(tmp_path / "images"), captions=str(tmp_path / "captions.json")),
    ):
        shard = inventory.Shard()
        for entry in open_source(source, tmp_path).entries():
            shard.add(entry, None)
        details = [detail for _, _, detail in shard.rejects]
        assert len(details) == 1
        assert "\\ud800" in details[0].encode("utf-8").decode()
        assert len(details[0]) < 6 * inventory.MAX_DETAIL + 1


def many(folder: Path) -> Workshop:
    """Forty records in several shards; images repeat across them, some are missing."""
    images = folder / "images"
    images.mkdir(parents=True)
    for n in range(9):
        (images / f"{n}.jpg").write_bytes(encoded(halves(20 + n, 10), "JPEG"))
    lines: list[dict[str, Any] | str] = [
        {"id": n, "image": f"{n % 11}.jpg", "conversations": chat((f"Q{n}", "A"))} for n in range(40)
    ]
    return Workshop(folder, cambrian(folder, lines))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "RECORDS_PER_SHARD", 6)
    monkeypatch.setattr(inspection, "BATCH", 2)
    monkeypatch.setattr(inventory, "BATCH", 2)


def content(artifact: Artifact) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in artifact.manifest.files}


@pytest.mark.usefixtures("small_shards")
def test_a_killed_inventory_continues_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = many(tmp_path / "a").inventory()
    assert len(undisturbed.matching("records/")) == 7
    workshop = many(tmp_path / "b")
    opened: list[str] = []
    really = inspection.inspect_images

    def dies_later(root: Path, references: list[str]) -> list[ImageFacts]:
        opened.extend(references)
        if len(opened) > 9:
            raise KeyboardInterrupt
        return really(root, references)

    monkeypatch.setattr(inspection, "inspect_images", dies_later)
    with pytest.raises(KeyboardInterrupt):
        workshop.inventory()
    job = workshop.job("inventory", _params(workshop, 0.5))
    notes = list((work_folder(job) / "notes").iterdir())
    assert 0 < len(notes) < 7
    again: list[str] = []

    def counts(root: Path, references: list[str]) -> list[ImageFacts]:
        again.extend(references)
        return really(root, references)

    monkeypatch.setattr(inspection, "inspect_images", counts)
    resumed = workshop.inventory()
    assert content(resumed) == content(undisturbed)
    assert resumed.manifest.counts == undisturbed.manifest.counts
    assert resumed.manifest.statistics == undisturbed.manifest.statistics
    assert len(again) == len(set(again))
    assert not work_folder(job).exists()


@pytest.mark.usefixtures("small_shards")
def test_an_image_is_opened_once_over_all_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    really = inspection.inspect_images

    def counts(root: Path, references: list[str]) -> list[ImageFacts]:
        opened.extend(references)
        return really(root, references)

    monkeypatch.setattr(inspection, "inspect_images", counts)
    many(tmp_path).inventory()
    assert sorted(opened) == sorted({f"{n}.jpg" for n in range(11)})


@pytest.mark.usefixtures("small_shards")
def test_hopeless_data_stops_early(tmp_path: Path) -> None:
    lines: list[dict[str, Any] | str] = [{"image": f"{n}.jpg", "conversations": CHAT} for n in range(60)]
    with pytest.raises(DataError, match=r"12 of 60 records of data\.pretrain \(stopped after 12\) were rejected"):
        Workshop(tmp_path, cambrian(tmp_path, lines)).inventory(max_reject_share=0.1)


@pytest.mark.usefixtures("small_shards")
def test_repaired_data_pass_though_they_failed_before(tmp_path: Path) -> None:
    """An image of the same size changes no fingerprint, so the inventory has the same id and the same work folder."""
    workshop = many(tmp_path / "a")
    expected = workshop.inventory(max_reject_share=0.2)
    broken = many(tmp_path / "b")
    for n in range(9):
        path = tmp_path / "b" / "images" / f"{n}.jpg"
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match="not_an_image: 10"):
        broken.inventory(max_reject_share=0.2)
    for n in range(9):
        name = f"{n}.jpg"
        (tmp_path / "b" / "images" / name).write_bytes((tmp_path / "a" / "images" / name).read_bytes())
    repaired = broken.inventory(max_reject_share=0.2)
    assert content(repaired) == content(expected)
    assert repaired.manifest.counts == expected.manifest.counts


@pytest.mark.usefixtures("small_shards")
def test_rejects_that_are_allowed_are_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop, written = many(tmp_path), killed_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        workshop.inventory()
    assert written == [0, 1, 2]
    assert workshop.inventory().manifest.counts.rejected == {"missing_image": 6}
    assert written == [0, 1, 2, 3, 4, 5, 6], "9.jpg is missing in shard 1, which is kept"


DAMAGE = {
    "empty note": lambda work: (work / "notes" / "00000-of-00007.json").write_bytes(b""),
    "half a note": lambda work: cut(work / "notes" / "00000-of-00007.json"),
    "empty table": lambda work: (work / "records" / "part-00000-of-00007.parquet").write_bytes(b""),
    "half a table": lambda work: cut(work / "records" / "part-00000-of-00007.parquet"),
    "no table": lambda work: (work / "records" / "part-00000-of-00007.parquet").unlink(),
    "another table": lambda work: pq.write_table(
        RECORDS.empty_table(), work / "records" / "part-00000-of-00007.parquet"
    ),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def killed_at(monkeypatch: pytest.MonkeyPatch, shard: int) -> list[int]:
    """Make one inventory die before it commits this shard. The list fills with the shards that are committed."""
    written: list[int] = []
    really, alive = inventory.Commits.write, [False]

    def write(self: inventory.Commits, number: int, rows: inventory.Shard) -> inventory.Note:
        if number == shard and not alive[0]:
            alive[0] = True
            raise KeyboardInterrupt
        written.append(number)
        return really(self, number, rows)

    monkeypatch.setattr(inventory.Commits, "write", write)
    return written


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_commit_that_cannot_be_read_whole_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    expected = many(tmp_path / "a").inventory()
    workshop = many(tmp_path / "b")
    written = killed_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        workshop.inventory()
    damage(work_folder(workshop.job("inventory", _params(workshop, 0.5))))
    again = workshop.inventory()
    assert written == [0, 1, 0, 2, 3, 4, 5, 6]
    assert content(again) == content(expected)
    assert again.manifest.counts == expected.manifest.counts


def test_commits_are_of_the_raw_data_that_they_were_made_of(tmp_path: Path) -> None:
    first, second = (
        build_index(open_source(cambrian(tmp_path / name, [{"conversations": chat((name, "A"))}]), tmp_path), 0)
        for name in ("a", "b")
    )
    inventory.Commits(tmp_path / "work", first, False).write(0, inventory.Shard())
    assert list(inventory.Commits(tmp_path / "work", first, False).notes()) == [0]
    assert not inventory.Commits(tmp_path / "work", second, False).notes()
    assert not inventory.Commits(tmp_path / "work", first, True).notes(), "there is no truth"


CHANGES: dict[str, Callable[[list[str]], list[str]]] = {
    "shorter": lambda lines: lines[:4],
    "one less": lambda lines: lines[:-1],
    "longer": lambda lines: [*lines, lines[0]],
    "other": lambda lines: [lines[0].replace("Q0", "Q?"), *lines[1:]],
    "other order": lambda lines: lines[::-1],
}


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("limit", [None, 20])
def test_raw_data_that_change_between_the_passes_are_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[list[str]], list[str]],
    limit: int | None,
) -> None:
    workshop, really = many(tmp_path), inventory.build_index

    def build_index(*args: Any) -> Any:
        index = really(*args)
        path = tmp_path / "records.jsonl"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
        return index

    monkeypatch.setattr(inventory, "build_index", build_index)
    with pytest.raises(DataError, match="changed"):
        workshop.inventory(limit=limit)


def test_the_counts_are_those_of_the_rows(tmp_path: Path) -> None:
    artifact = many(tmp_path).inventory()
    assert artifact.manifest.counts.rows_out == table(artifact, "records/").num_rows == 34


def test_truth_of_the_rendered_world(tmp_path: Path) -> None:
    source = MiniatureSource(records="questions", scenes=4, seed=5_000_000)
    artifact = Workshop(tmp_path, source).inventory()
    records, truth = table(artifact, "records/"), table(artifact, "truth/")
    assert truth.schema.equals(TRUTH)
    turns = {(row["sample_id"], number) for row in records.to_pylist() for number in range(len(row["turns"]))}
    assert {(row["sample_id"], row["turn"]) for row in truth.to_pylist()} == turns
    sizes = {row["sample_id"]: (row["height"], row["width"]) for row in records.to_pylist()}
    for row in truth.to_pylist():
        assert (row["height"], row["width"]) == sizes[row["sample_id"]]
        assert row["present"] == (row["rle"] is not None)


def test_a_mask_for_a_frame_of_another_size_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(rotated_by_exif(6))  # stored 40 x 20, shown 20 x 40
    marks = [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]], "iscrowd": 0}]
    instances = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 20, "width": 40}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": marks,
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    source = FolderSource(
        images=str(tmp_path / "images"), instances=str(tmp_path / "instances.json"), records="existence"
    )
    artifact = Workshop(tmp_path, source).inventory()
    assert artifact.manifest.statistics["truth_of_another_size"] == 1
    assert len(table(artifact, "truth/")) == 0
