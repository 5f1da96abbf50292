"""inventory's commits: after kills and damage the result is the same; data that changed is an error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pipeline.sources.inspection as inspection
import pipeline.steps.inventory as inventory
from model.errors import DataError
from pipeline.artifacts.shards import Seal, Shards
from pipeline.artifacts.store import Artifact
from pipeline.schemas import RECORDS
from pipeline.sources.config import identity
from pipeline.sources.images import ImageFacts
from pipeline.sources.index import build_index
from pipeline.sources.table import open_source
from tests.pipeline.steps.fixtures_single_step import Workshop, cambrian, chat, shards_of
from tests.pipeline.steps.test_inventory import CHAT, many


def data(workshop: Workshop) -> Path:
    """The data folder of the only step that was started."""
    (folder,) = (workshop.folder / "store" / "inventory").glob("*/*/data-*")
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
    assert 0 < len(list((data(workshop) / "_seals").iterdir())) < 7
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
def test_too_many_rejects_stop_the_step_early(tmp_path: Path) -> None:
    lines: list[dict[str, Any] | str] = [{"image": f"{n}.jpg", "conversations": CHAT} for n in range(60)]
    with pytest.raises(DataError, match=r"12 of 60 records of data\.pretrain \(stopped after 12\) were rejected"):
        Workshop(tmp_path, cambrian(tmp_path, lines)).inventory(max_reject_share=0.1)


@pytest.mark.usefixtures("small_shards")
def test_data_that_was_repaired_after_a_failure_is_read_again(tmp_path: Path) -> None:
    """An image of the same size changes no fingerprint, so the inventory has the same id and the same shards."""
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
def test_shards_with_few_rejects_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop, written = many(tmp_path), killed_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        workshop.inventory()
    assert written == [0, 1, 2]
    assert workshop.inventory().manifest.counts.rejected == {"missing_image": 6}
    assert written == [0, 1, 2, 3, 4, 5, 6], "9.jpg is missing in shard 1, which is kept"


SEAL, TABLE = "_seals/00000.json", "records/part-00000-of-00007.parquet"
DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty seal": lambda left: (left / SEAL).write_bytes(b""),
    "half a seal": lambda left: cut(left / SEAL),
    "empty table": lambda left: (left / TABLE).write_bytes(b""),
    "half a table": lambda left: cut(left / TABLE),
    "no table": lambda left: (left / TABLE).unlink(),
    "another table": lambda left: pq.write_table(RECORDS.empty_table(), left / TABLE),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def killed_at(monkeypatch: pytest.MonkeyPatch, shard: int) -> list[int]:
    """Make the first inventory die before it commits this shard. The list records the shards that are committed."""
    written: list[int] = []
    really, alive = inventory.Layout.commit, [False]

    def commit(self: inventory.Layout, shards: Shards, number: int, rows: inventory.ShardRows) -> Seal:
        if number == shard and not alive[0]:
            alive[0] = True
            raise KeyboardInterrupt
        written.append(number)
        return really(self, shards, number, rows)

    monkeypatch.setattr(inventory.Layout, "commit", commit)
    return written


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_commit_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    expected = many(tmp_path / "a").inventory()
    workshop = many(tmp_path / "b")
    written = killed_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        workshop.inventory()
    damage(data(workshop))
    again = workshop.inventory()
    assert written == [0, 1, 0, 2, 3, 4, 5, 6]
    assert content(again) == content(expected)
    assert again.manifest.counts == expected.manifest.counts


def test_commits_of_other_raw_data_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of other records have another folder, even under the same fingerprint."""
    workshop = many(tmp_path)
    job = workshop.job("inventory", {"source": identity(workshop.source), "limit": None, "seed": 0, "fingerprint": "x"})
    first, second = (
        build_index(open_source(cambrian(tmp_path / name, [{"conversations": chat((name, "A"))}]), tmp_path), 0)
        for name in ("a", "b")
    )
    inventory.Layout(first, False).commit(shards_of(job, first.digest), 0, inventory.ShardRows())
    assert list(shards_of(job, first.digest).committed()) == ["00000"]
    assert shards_of(job, second.digest).committed() == {}


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
