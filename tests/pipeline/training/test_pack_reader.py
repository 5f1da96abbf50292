"""Rows of a pack by address."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import DataError
from pipeline.schemas import PACK, part_name
from pipeline.training.order import Address
from pipeline.training.pack_reader import PackReader


def write_pack(folder: Path, shards: list[list[bytes | None]], group: int = 2) -> None:
    """A pack in which row r of shard s has r + 1 tokens of value 100 s + r."""
    folder.mkdir(parents=True, exist_ok=True)
    for s, images in enumerate(shards):
        rows = [
            {
                "sample_id": f"{s}-{r}",
                "image": image,
                "image_bytes": len(image or b""),
                "length": r + 1,
                "input_ids": [100 * s + r] * (r + 1),
                "target": [r % 2 == 0] * (r + 1),
                "token_starts": list(range(r + 1)),
                "token_ends": list(range(1, r + 2)),
                "turns": [{"turn": 0, "question_start": 0, "question_end": 1, "answer_start": 2, "answer_end": 3}],
            }
            for r, image in enumerate(images)
        ]
        pq.write_table(
            pa.Table.from_pylist(rows, schema=PACK), folder / part_name(s, len(shards)), row_group_size=group
        )


def test_every_row_is_found_in_any_order(tmp_path: Path) -> None:
    write_pack(tmp_path, [[b"a"] * 7, [b"b"] * 3, [b"c"] * 5])
    reader = PackReader(tmp_path)
    addresses = [Address(s, r) for s, n in enumerate((7, 3, 5)) for r in range(n)]
    assert reader.rows == len(addresses)
    for at in np.random.default_rng(0).permutation(len(addresses) * 3) % len(addresses):
        address = addresses[at]
        row = reader.row(address)
        assert row.sample_id == f"{address.shard}-{address.row}"
        assert row.input_ids.tolist() == [100 * address.shard + address.row] * (address.row + 1)
        assert row.target.tolist() == [address.row % 2 == 0] * (address.row + 1)
        assert (row.starts < row.ends).all()
        assert row.image == b"abc"[address.shard : address.shard + 1]
    with pytest.raises(IndexError, match="has no row 7"):
        reader.row(Address(0, 7))


def test_images_and_lengths_are_known_without_reading_images_or_tokens(tmp_path: Path) -> None:
    images = [b"x", b"x", None, None, None, b"x", b"x"]
    write_pack(tmp_path, [images, [None]])
    reader = PackReader(tmp_path)
    assert reader.with_image(0).tolist() == [i is not None for i in images]
    assert reader.with_image(1).tolist() == [False]
    assert reader.lengths(0).tolist() == [len(reader.row(Address(0, r)).input_ids) for r in range(7)]


def test_a_pack_without_lengths_is_refused(tmp_path: Path) -> None:
    write_pack(tmp_path, [[b"x"]])
    path = tmp_path / part_name(0, 1)
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index("length"), "length", pa.nulls(1, pa.int32())), path)
    with pytest.raises(DataError, match="length has gaps"):
        PackReader(tmp_path).lengths(0)


def test_a_folder_that_is_not_a_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no part-\*.parquet"):
        PackReader(tmp_path)
    pq.write_table(pa.table({"sample_id": ["a"]}), tmp_path / part_name(0, 1))
    with pytest.raises(DataError, match="has no column image"):
        PackReader(tmp_path)
