"""inventory's commits: killed, damaged, repaired or changed, it ends as an undisturbed one, or says why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pipeline.sources.inspection as inspection
import pipeline.steps.inventory as inventory
from model.errors import DataError
from pipeline.artifacts.store import Artifact
from pipeline.schemas import RECORDS
from pipeline.sources.images import ImageFacts
from pipeline.sources.index import build_index
from pipeline.sources.opening import open_source
from tests.pipeline.steps.test_inventory import CHAT, many
from tests.pipeline.steps.workshop import Workshop, cambrian, chat


def work(workshop: Workshop) -> Path:
    """The work folder of the only step that is under way."""
    (folder,) = (workshop.folder / "store" / "staging").glob("*/*")
    return folder


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
    left = work(workshop)
    assert 0 < len(list((left / "notes").iterdir())) < 7
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
    assert not left.exists()


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
    "empty note": lambda left: (left / "notes" / "00000-of-00007.json").write_bytes(b""),
    "half a note": lambda left: cut(left / "notes" / "00000-of-00007.json"),
    "empty table": lambda left: (left / "records" / "part-00000-of-00007.parquet").write_bytes(b""),
    "half a table": lambda left: cut(left / "records" / "part-00000-of-00007.parquet"),
    "no table": lambda left: (left / "records" / "part-00000-of-00007.parquet").unlink(),
    "another table": lambda left: pq.write_table(
        RECORDS.empty_table(), left / "records" / "part-00000-of-00007.parquet"
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
    damage(work(workshop))
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
