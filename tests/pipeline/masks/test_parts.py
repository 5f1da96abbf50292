"""Parts of mask tables: cutting is a pure function of the subset, and damaged parts are refused."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import DataError
from pipeline.masks.parts import cut, errors_of, evidence_bytes, facts_of, read_part, read_parts, shard_name
from pipeline.schemas import EVIDENCE, MASKS, QUERIES


def queries(per_image: list[int]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for image, count in enumerate(per_image):
        base = dict.fromkeys(QUERIES.names)
        rows += [{**base, "image": f"{image}.jpg", "image_sha256": str(image), "turn": t} for t in range(count)]
    return pa.Table.from_pylist(rows, schema=QUERIES)


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 9))
def test_shards_keep_the_order_of_queries_and_never_split_an_image(per_image: list[int], shard_images: int) -> None:
    table = queries(per_image)
    shards = cut(table, shard_images)
    assert pa.concat_tables(shards).equals(table)
    images = [set(shard["image"].to_pylist()) for shard in shards]
    assert sum(len(own) for own in images) == len(per_image)
    assert all(len(own) == shard_images for own in images[:-1])
    assert len(images[-1]) <= shard_images
    assert len(shards) == max(1, -(-len(per_image) // shard_images))


def test_an_image_whose_rows_are_not_adjacent_is_refused() -> None:
    table = queries([1, 1])
    with pytest.raises(DataError, match="not adjacent rows"):
        cut(pa.concat_tables([table, table]), 4)


def evidence(rows: int) -> pa.Table:
    return pa.Table.from_pylist([{**dict.fromkeys(EVIDENCE.names), "turn": t} for t in range(rows)], schema=EVIDENCE)


def full(rows: int) -> pa.Table:
    """Evidence with a value in every column."""
    instance = {"polygons": [[0.5, 1.0]], "box": [0.0], "rle": "04", "area": 3, "sam_iou": 0.5, "agreement_iou": 0.25}
    instance |= {"area_fraction": 0.15, "phrase": "dog", "stability": 0.75}
    row = {"sample_id": "s", "query_kind": "caption", "char_start": 0, "char_end": 3, "image_sha256": "0" * 64}
    row |= {"height": 4, "width": 5, "query": "A dog", "status": "ok", "reason": "", "teacher": "t"}
    values = [
        {
            **row,
            "turn": n,
            "polygon_score": n / 7,
            "ended": n % 2 == 0,
            "answer_tokens": n,
            "characters_cut": 0,
            "degenerate": 1,
            "instances": [{**instance, "area": n + k} for k in range(n % 3)],
        }
        for n in range(rows)
    ]
    return pa.Table.from_pylist(values, schema=EVIDENCE)


def write(path: Path, table: pa.Table, facts: dict[str, Any]) -> Path:
    path.write_bytes(evidence_bytes(table, facts))
    return path


def test_a_part_is_read_with_its_facts(tmp_path: Path) -> None:
    path = write(tmp_path / "part-00001-of-00003.parquet", full(9), {"shard": 1})
    assert facts_of(path) == {"shard": 1}
    assert read_part(path, EVIDENCE).equals(full(9))
    assert shard_name(1, 3) == "part-00001-of-00003"


def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "part-00000-of-00001.parquet", full(9), {})
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(0)
    content[column.dictionary_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"part-00000-of-00001\.parquet cannot be read .*; run the step"):
        read_part(path, EVIDENCE)


def test_errors_are_listed_with_the_name_of_their_reason() -> None:
    rows = full(3).to_pylist()
    rows[1] |= {"status": "error", "reason": "image_changed: gone: 5.jpg"}
    rows[2] |= {"status": "no_region"}
    table = pa.Table.from_pylist(rows, schema=EVIDENCE)
    assert errors_of(table) == [("s/1/caption", "image_changed", "image_changed: gone: 5.jpg")]


def test_the_bytes_of_a_part_depend_on_its_content_only() -> None:
    assert evidence_bytes(evidence(5), {"y": 1, "x": 2}) == evidence_bytes(evidence(5), {"x": 2, "y": 1})
    with pytest.raises(ValueError, match="schema"):
        evidence_bytes(queries([1]), {})


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    pq.write_table(queries([1]), tmp_path / "part-00000-of-00001.parquet")
    assert len(read_parts(tmp_path, QUERIES)) == 1
    with pytest.raises(DataError, match="run its step again"):
        read_parts(tmp_path, MASKS)
    with pytest.raises(DataError, match=r"no part-\*"):
        read_parts(tmp_path, QUERIES, "queries")
