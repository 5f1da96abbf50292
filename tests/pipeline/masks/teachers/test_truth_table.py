"""Looking up ground truth: every row is found by sample and turn, and memory holds an index only."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from model.errors import DataError
from pipeline.artifacts.store import ArtifactStore
from pipeline.masks.teachers.truth_table import TruthTable
from pipeline.schemas import TRUTH


def row(sample: str, turn: int, counts: str | None = "x") -> dict[str, Any]:
    return {"sample_id": sample, "turn": turn, "present": counts is not None, "height": 4, "width": 5, "rle": counts}


def table_of(folder: Path, *groups: list[dict[str, Any]]) -> TruthTable:
    files = []
    for number, rows in enumerate(groups):
        files.append(str(folder / f"part-{number}.parquet"))
        pq.write_table(pa.Table.from_pylist(rows, schema=TRUTH), files[-1])
    return TruthTable.open(files, ArtifactStore(str(folder)))


def test_every_row_is_found_whatever_its_part_and_place(tmp_path: Path) -> None:
    rows = [row(f"s{number * 7919 % 500}", number % 3, f"counts {number}") for number in range(500)]
    rows += [row("s1#2", 0, None), row("s1", 7, "later")]
    rows += [row("many", turn, f"turn {turn}") for turn in (9, 4, 6, 1, 8, 0, 3)]
    table = table_of(tmp_path, rows[:100], [], rows[100:])
    assert len(table) == len(rows)
    for expected in rows:
        assert table.find(expected["sample_id"], expected["turn"]) == expected


@pytest.mark.parametrize(("sample", "turn"), [("s1", 1), ("s", 0), ("s2", 0), ("s1 and longer", 0), ("", 0), ("a", 0)])
def test_other_keys_have_no_row(tmp_path: Path, sample: str, turn: int) -> None:
    assert table_of(tmp_path, [row("s1", 0), row("s1", 2), row("s3", 0)]).find(sample, turn) is None


def test_a_table_without_rows_has_none(tmp_path: Path) -> None:
    assert table_of(tmp_path, []).find("s1", 0) is None


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "part-0.parquet").write_bytes(b"PAR1 and more")
    with pytest.raises(DataError, match=r"part-0\.parquet cannot be read"):
        TruthTable.open([str(tmp_path / "part-0.parquet")], ArtifactStore(str(tmp_path)))
