"""inventory's commits: after kills and damage the result is the same; data that changed is an error."""

import contextlib
import gzip
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipeline.artifacts.shards as shards
import pipeline.inventory.reading as reading
import pipeline.sources.cambrian as cambrian_source
import pipeline.sources.lines as lines
import pipeline.steps.inventory as inventory
from model.errors import DataError
from pipeline.artifacts.shards import Seal, Shards
from pipeline.artifacts.store import Artifact
from pipeline.sources.images.store import ImageStore
from tests.pipeline.sources.fixtures_pictures import encoded, halves
from tests.pipeline.sources.images.fixtures_archives import tar_bytes
from tests.pipeline.steps.fixtures_single_step import Workshop, cambrian, chat
from tests.pipeline.steps.test_inventory import CHAT, many


def seals_in(folder: Path) -> list[str]:
    """The names of the commits of the only step that was started."""
    return [path.stem for path in (folder / "store").rglob("_seals/*.json")]


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty records make some splits, five buckets and ten or more pieces."""
    monkeypatch.setattr(cambrian_source, "SPLIT_BYTES", 1500)
    monkeypatch.setattr(cambrian_source, "RECORD_BYTES", 120)
    monkeypatch.setattr(lines, "BLOCK", 256)
    monkeypatch.setattr(reading, "PIECE_ENTRIES", 4)
    monkeypatch.setattr(inventory, "BUCKET_RECORDS", 8)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of small commits would wait for the disk
    monkeypatch.setitem(shards.OTHER_WRITER_SECONDS, "disk", 0.1)  # for a damaged file's writer, which is gone


def content(artifact: Artifact) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in artifact.manifest.files}


class Dies(Exception):
    """Stands for a kill."""


def killed_after(monkeypatch: pytest.MonkeyPatch, commits: int) -> list[str]:
    """Make the first inventory die before it commits once more. The list gets the names of all commits."""
    made: list[str] = []
    really, alive = Shards.commit, [False]

    def commit(self: Shards, name: str, *args: Any, **kwargs: Any) -> Seal:
        if len(made) == commits and not alive[0]:
            alive[0] = True
            raise Dies
        made.append(name)
        return really(self, name, *args, **kwargs)

    monkeypatch.setattr(Shards, "commit", commit)
    return made


def test_a_killed_inventory_continues_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = many(tmp_path / "a").inventory()
    assert len(undisturbed.matching("records/")) > 6
    made = killed_after(monkeypatch, 10**9)
    many(tmp_path / "b").inventory()
    total = len(made)
    assert {name.partition("-")[0] for name in made} >= {"split", "bucket", "00000"}
    monkeypatch.undo()
    for commits in (0, 1, total // 3, total // 2, total - 1):
        with pytest.MonkeyPatch.context() as patch:
            make_small(patch)
            made = killed_after(patch, commits)
            workshop = many(tmp_path / str(commits))
            with pytest.raises(Dies):
                workshop.inventory()
            resumed = workshop.inventory()
        twice = [name for name, times in Counter(made).items() if times > 1]
        assert all(name.startswith("piece-") for name in twice), "only pieces of the split in work are made twice"
        assert content(resumed) == content(undisturbed)
        assert resumed.manifest.counts == undisturbed.manifest.counts
        assert resumed.manifest.statistics == undisturbed.manifest.statistics


def test_an_image_is_opened_once_over_all_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    really = ImageStore.read
    monkeypatch.setattr(ImageStore, "read", lambda self, locator: (opened.append(locator), really(self, locator))[1])
    many(tmp_path).inventory()
    assert sorted(opened) == sorted(f"{n}.jpg" for n in range(9))


def test_too_many_rejects_stop_the_step_early(tmp_path: Path) -> None:
    records: list[dict[str, Any] | str] = [{"image": f"{n}.jpg", "conversations": CHAT} for n in range(60)]
    with pytest.raises(DataError, match=r"of 60 records of data\.pretrain \(stopped at part [1-4] of"):
        Workshop(tmp_path, cambrian(tmp_path, records)).inventory(max_reject_share=0.1)
    assert len([name for name in seals_in(tmp_path) if name.startswith("bucket-")]) < 5


def test_data_that_was_repaired_after_a_failure_is_read_again(tmp_path: Path) -> None:
    """An image of the same size changes no fingerprint, so the inventory has the same id and the same parts."""
    workshop = many(tmp_path / "a")
    expected = workshop.inventory(max_reject_share=0.2)
    broken = many(tmp_path / "b")
    for n in range(9):
        path = tmp_path / "b" / "images" / f"{n}.jpg"
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match="not_an_image"):
        broken.inventory(max_reject_share=0.2)
    for n in range(9):
        name = f"{n}.jpg"
        (tmp_path / "b" / "images" / name).write_bytes((tmp_path / "a" / "images" / name).read_bytes())
    repaired = broken.inventory(max_reject_share=0.2)
    assert content(repaired) == content(expected)
    assert repaired.manifest.counts == expected.manifest.counts


FILES = ["_seals/split-00000.json", "00000-named.arrow", "bucket-00001-found.arrow", "records/part-00001"]
DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "gone": Path.unlink,
    "other bytes": lambda path: path.write_bytes(bytes(reversed(path.read_bytes()))),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_commit_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], file: str
) -> None:
    expected = many(tmp_path / "a").inventory()
    workshop = many(tmp_path / "b")
    made = killed_after(monkeypatch, 26)
    with pytest.raises(Dies):
        workshop.inventory()
    (path, *_) = sorted(p for p in (workshop.folder / "store").rglob("*") if file in str(p) and p.is_file())
    damage(path)
    again = workshop.inventory()
    twice = {name.split("-")[0] for name, times in Counter(made).items() if times > 1}
    assert twice <= {"split", "piece", "bucket", "00001"}
    assert len(twice) <= 2, "the damaged one, and a split's pieces"
    assert content(again) == content(expected)
    assert again.manifest.counts == expected.manifest.counts


CHANGES: dict[str, Callable[[list[str]], list[str]]] = {
    "shorter": lambda lines: lines[:4],
    "one less": lambda lines: lines[:-1],
    "longer": lambda lines: [*lines, lines[0]],
    "other": lambda lines: [lines[0].replace("Q0", "Q?"), *lines[1:]],
    "other order": lambda lines: lines[::-1],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("limit", [None, 20])
def test_raw_data_that_change_while_they_are_read_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[str]], list[str]], limit: int | None
) -> None:
    workshop, really = many(tmp_path), inventory.pieces_of

    def pieces_of(seals: list[Seal]) -> Any:
        path = tmp_path / "records.jsonl"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
        return really(seals)

    monkeypatch.setattr(inventory, "pieces_of", pieces_of)
    with pytest.raises(DataError, match="changed"):
        workshop.inventory(limit=limit)
    assert not seals_in(tmp_path), "parts of other data must not be used later"


def test_records_that_are_added_or_changed_are_read_by_a_process_that_read_the_file_before(tmp_path: Path) -> None:
    def write(records: list[dict[str, Any] | str], array: bool = False) -> None:
        lines = [json.dumps(record) for record in records]
        text = f"[{','.join(lines)}]" if array else "\n".join(lines)
        (tmp_path / "records.jsonl").write_text(text)

    workshop = Workshop(tmp_path, cambrian(tmp_path, []))
    for count, array in ((5, False), (90, False), (7, True), (3, False)):
        write([{"id": n, "conversations": chat((f"Q{n}", "A"))} for n in range(count)], array)
        assert workshop.inventory().manifest.counts.rows_out == count


def test_an_archive_that_has_grown_is_read_whole_by_the_same_process(tmp_path: Path) -> None:
    source = cambrian(tmp_path, [{"image": f"{n}.png", "conversations": CHAT} for n in range(2)])
    whole = tar_bytes({f"{n}.png": encoded(halves(20 + n, 10)) for n in range(2)})
    archive = tmp_path / "images" / "a.tar"
    archive.write_bytes(whole[: whole.index(b"1.png") + 520])
    workshop = Workshop(tmp_path, source)
    assert workshop.inventory(max_reject_share=0.9).manifest.counts.rejected == {"truncated": 1}
    archive.write_bytes(whole)
    assert workshop.inventory().manifest.counts.rejected == {}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_an_archive_that_was_repaired_after_a_failure_is_read_again(tmp_path: Path, suffix: str) -> None:
    """An archive of the same size changes no fingerprint."""
    source = cambrian(tmp_path, [{"image": f"{n}.png", "conversations": CHAT} for n in range(3)])
    whole = tar_bytes({f"{n}.png": encoded(halves(20 + n, 10)) for n in range(3)})
    at = whole.index(b"1.png")
    damaged = whole[:at] + b"\xff" * 1100 + whole[at + 1100 :]
    archive = tmp_path / "images" / f"a{suffix}"
    workshop = Workshop(tmp_path, source)
    for content, problem in ((damaged, "were rejected"), (whole, "")):
        archive.write_bytes(gzip.compress(content, 0, mtime=0) if suffix == ".tar.gz" else content)
        with pytest.raises(DataError, match=problem) if problem else contextlib.nullcontext():
            assert workshop.inventory(max_reject_share=0.1).manifest.counts.rejected == {}
