"""Micro-batches: the workers' parts of a global batch, sorted by length and cut alike on every worker."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.data.loader import micro_batches
from pipeline.training.data.order import SampleOrder


@given(
    st.lists(st.integers(1, 15), min_size=1, max_size=4),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_micro_batches_divide_each_workers_rows(
    sizes: list[int], global_batch: int, workers: int, micro_batch: int, window: int
) -> None:
    rng = np.random.default_rng(0)
    lengths = [rng.integers(1, 30, n).astype(np.int32) for n in sizes]
    rows = [np.arange(n) for n in sizes]
    order = SampleOrder(rows, 0, 1, global_batch, lengths=lengths, window=window, tail="keep")
    index = SimpleNamespace(lengths=lambda shard: lengths[shard])
    reader: Any = SimpleNamespace(lengths=index.lengths, index=index)
    for step in range(order.steps):
        parts = [micro_batches(order, reader, rank, workers, micro_batch, step) for rank in range(workers)]
        assert len({len(own) for own in parts}) == 1  # all workers take part in as many reductions
        for rank, own in enumerate(parts):
            rows_of_worker = [address for part in own for address in part]
            assert sorted(rows_of_worker) == order.slice(step, rank, workers)
            found = [int(lengths[address.shard][address.row]) for address in rows_of_worker]
            assert found == sorted(found)
            assert max(map(len, own)) <= micro_batch
            assert max(map(len, own)) - min(map(len, own)) <= 1
