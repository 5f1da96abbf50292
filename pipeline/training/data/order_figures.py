"""Figures of an order of samples: the share of padding, and the spread of guided rows over the steps.

They are those of a few hundred steps, because the ids of a large pack take long to read.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.training.data.order import SampleOrder

STRETCHES, STEPS = 4, 64
"""Parts of the run that are looked at, and the steps of each. Steps in a row lie in few shards."""

Guided = Callable[[int], npt.NDArray[np.bool_]]
"""Shard -> (rows,) True for each of its rows that has a mask."""


def order_figures(order: SampleOrder, micro_batch: int, workers: int, guided: Guided | None = None) -> dict[str, Any]:
    """The figures for stage.json.

    padding: share of the tokens of all micro-batches that are padding; `unsorted` is that of a window of 1 whose
    micro-batches are not sorted by length either.
    guided: rows with a mask per global batch: mean, standard deviation, the deviation by chance alone (binomial),
    and the most steps in a row without such a row. None for a stage without masks.
    """
    stretches = sampled_steps(order.steps, order.window)
    steps = [step for stretch in stretches for step in stretch]
    plain = order.without_buckets()
    padding = {
        "unsorted": _padding(plain, steps, micro_batch, workers, by_length=False),
        "sorted": _padding(order, steps, micro_batch, workers, by_length=True),
    }
    rows = None if guided is None else [_guided_rows(order, stretch, guided) for stretch in stretches]
    return {
        "steps": len(steps),
        "padding": padding,
        "guided": None if rows is None else spread(rows, order.global_batch),
    }


def sampled_steps(steps: int, window: int) -> list[range]:
    """Stretches of steps, of whole windows where there are enough, evenly over a run; all steps of a short run."""
    length = -(-STEPS // window) * window
    if steps <= STRETCHES * length:
        return [range(steps)]
    windows = (steps - length) // window
    starts = [number * windows // (STRETCHES - 1) * window for number in range(STRETCHES)]
    return [range(start, start + length) for start in starts]


def spread(rows: Sequence[npt.NDArray[np.int64]], global_batch: int) -> dict[str, float | int]:
    """Mean and deviations of the guided rows per global batch, and the longest gap, over stretches of steps."""
    everything = np.concatenate(rows)
    mean = float(everything.mean())
    share = min(1.0, mean / global_batch)
    return {
        "mean": mean,
        "deviation": float(everything.std()),
        "binomial_deviation": float(np.sqrt(global_batch * share * (1 - share))),
        "longest_gap": max(_longest_gap(stretch) for stretch in rows),
    }


def _longest_gap(rows: npt.NDArray[np.int64]) -> int:
    with_rows = np.concatenate(([-1], np.flatnonzero(rows), [len(rows)]))
    return int(np.diff(with_rows).max()) - 1


def _guided_rows(order: SampleOrder, steps: range, guided: Guided) -> npt.NDArray[np.int64]:
    """(steps,) guided rows of each global batch."""
    known: dict[int, npt.NDArray[np.bool_]] = {}
    counts = []
    for step in steps:
        batch = order.batch(step)
        for shard in {address.shard for address in batch} - set(known):
            known[shard] = guided(shard)
        counts.append(sum(bool(known[address.shard][address.row]) for address in batch))
    return np.array(counts, dtype=np.int64)


def _padding(order: SampleOrder, steps: Sequence[int], micro_batch: int, workers: int, by_length: bool) -> float:
    """Share of padding in the micro-batches of all workers, which are cut as `loader.micro_batches` cuts them."""
    tokens = room = 0
    for step in steps:
        lengths = order.lengths_of(order.batch(step)).astype(np.int64)
        size = len(lengths)
        count = ceil(ceil(size / workers) / micro_batch)
        for rank in range(workers):
            mine = lengths[rank * size // workers : (rank + 1) * size // workers]
            mine = np.sort(mine) if by_length else mine
            parts = (mine[i * len(mine) // count : (i + 1) * len(mine) // count] for i in range(count))
            room += sum(int(part.max()) * len(part) for part in parts if len(part))
        tokens += int(lengths.sum())
    return 1 - tokens / room if room else 0.0
