"""Bucket files: every row is in exactly one bucket, and equal keys are in the same."""

import os

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.overlap.buckets import BUCKET_ROWS, MAX_BUCKETS, Buckets, bucket_count
from pipeline.overlap.digests import CONTENT, leading

keys = st.lists(st.binary(min_size=16, max_size=16), max_size=40)


@settings(max_examples=40, deadline=None)
@given(keys, st.integers(1, 9), st.integers(1, 11))
def test_every_row_is_in_the_bucket_of_its_key(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes], count: int, batch: int
) -> None:
    content += content[:5]
    buckets = Buckets(tmp_path_factory.mktemp("buckets") / "made", CONTENT, count)
    with buckets:
        for start in range(0, len(content), batch):
            part = content[start : start + batch]
            buckets.write(pa.array(part, CONTENT), pa.array([f"{start + n}" for n in range(len(part))]))
    found: dict[int, tuple[bytes, int]] = {}
    for number in range(count):
        rows = buckets.read(number)
        for row in rows.to_pylist():
            assert int(row["sample_id"]) not in found
            found[int(row["sample_id"])] = row["key"], number
    assert [found[n][0] for n in range(len(content))] == content
    for key, number in found.values():
        assert number == int.from_bytes(key[:4], "big") * count >> 32


def test_hashes_are_spread_evenly() -> None:
    numbers = leading(pa.array([os.urandom(16) for _ in range(4000)], CONTENT)).astype(float) / 2**32
    assert abs(numbers.mean() - 0.5) < 0.05


@pytest.mark.parametrize(
    ("records", "count"),
    [(0, 1), (1, 1), (BUCKET_ROWS, 1), (BUCKET_ROWS + 1, 2), (1_000_000, 16), (10**9, MAX_BUCKETS)],
)
def test_buckets_are_as_many_as_the_records_need(records: int, count: int) -> None:
    assert bucket_count(records) == count
