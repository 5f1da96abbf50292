"""The seeded order of a pack, with bucket files."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.packing.shuffle as shuffle
from model.errors import DataError
from pipeline.packing.shuffle import Layout, deal, ranks, shards
from pipeline.schemas import RECORDS
from pipeline.sources.records import order_key


def write_records(folder: Path, ids: list[str], per_file: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, start in enumerate(range(0, max(1, len(ids)), per_file)):
        rows = [
            {
                "sample_id": name,
                "given_id": f"given {name}",
                "has_image": False,
                "turns": [{"question": "Q", "answer": name}],
            }
            for name in ids[start : start + per_file]
        ]
        files.append(folder / f"part-{number:05d}.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=RECORDS), files[-1])
    return files


def dealt(folder: Path, ids: list[str], per_file: int, shard_rows: int, seed: int = 0) -> list[list[str]]:
    files = write_records(folder / "records", ids, per_file)
    layout = Layout(len(ids), shard_rows)
    paths = deal(files, ranks(files, seed), layout, folder / "buckets")
    found = list(shards(paths, layout))
    assert [number for number, _ in found] == list(range(layout.shards))
    assert [len(rows) for _, rows in found] == [layout.size(number) for number in range(layout.shards)]
    for _, rows in found:
        assert rows.schema.equals(RECORDS)
        assert rows.column("given_id").to_pylist() == [f"given {i}" for i in rows.column("sample_id").to_pylist()]
    return [rows.column("sample_id").to_pylist() for _, rows in found]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 90), st.integers(1, 40), st.integers(1, 20), st.integers(1, 8), st.integers(1, 30))
def test_every_record_is_written_once_and_in_its_place(
    tmp_path_factory: pytest.TempPathFactory, count: int, per_file: int, shard_rows: int, buckets: int, bucket_rows: int
) -> None:
    ids = [f"sample {n}" for n in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "MAX_BUCKETS", buckets)
        patch.setattr(shuffle, "BUCKET_ROWS", bucket_rows)
        patch.setattr(shuffle, "BATCH", 7)
        layout = Layout(count, shard_rows)
        assert layout.buckets <= buckets
        found = dealt(tmp_path_factory.mktemp("deal"), ids, per_file, shard_rows)
    expected = sorted(ids, key=lambda name: order_key("pack", 0, name))
    assert [name for shard in found for name in shard] == expected


@pytest.mark.parametrize("now", [0, 5, 9, 11, 40])
def test_records_that_changed_since_they_were_ranked_are_an_error(tmp_path: Path, now: int) -> None:
    rank = ranks(write_records(tmp_path / "then", [f"sample {n}" for n in range(10)], 4), 0)
    files = write_records(tmp_path / "now", [f"sample {n}" for n in range(now)], 4)
    with pytest.raises(DataError, match="had 10 records at first and"):
        deal(files, rank, Layout(10, 4), tmp_path / "buckets")


def test_the_order_depends_on_the_seed_and_not_on_the_files(tmp_path: Path) -> None:
    ids = [f"sample {n}" for n in range(50)]
    shuffled = list(ids)
    random.Random(1).shuffle(shuffled)
    first = dealt(tmp_path / "a", ids, 50, 8)
    assert dealt(tmp_path / "b", shuffled, 11, 8) == first
    assert dealt(tmp_path / "c", ids, 50, 8, seed=1) != first


def test_orders_of_different_purposes_are_unrelated() -> None:
    ids = [f"sample {n}" for n in range(2000)]
    pack = np.argsort([order_key("pack", 0, name).hex() for name in ids]).argsort()
    subset = np.argsort([order_key("subset", 0, name).hex() for name in ids]).argsort()
    assert abs(np.corrcoef(pack, subset)[0, 1]) < 0.1
    chosen = np.sort(pack[subset < 60])  # 3 % of the rows, as in the paper's stage 3
    assert np.diff(chosen).max() < 400
