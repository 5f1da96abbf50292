"""The order of samples: the rows of the pack in each global batch.

A pure function of (seed, epoch, global step) and of settings that are part of the stage's id. It does not depend on the
number of workers, nor on the step at which a run starts: each worker takes its part of each global batch.

1. The stream is one epoch after the other. Epoch 0 has the order of the pack, which is random already; each later epoch
   permutes the shards, and the rows within each shard, from (seed, epoch).
2. Length buckets: the rows of `window` global batches are sorted by length and cut into as many batches, which are then
   shuffled. Rows of similar length share a batch, so that little of it is padding. A batch with rows of two epochs is
   left as it is: a row stays in its epoch's part of the stream. A window of 1 leaves all batches as they are.
3. The rows that are left at the end of the last epoch (fewer than one global batch) are not trained on, or they are a
   smaller last batch: see `tail`. Nowhere else is a batch smaller, so every row is seen once per epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from model.errors import ConfigError

Rows = npt.NDArray[np.int64]
Tail = Literal["drop", "keep"]
SHARDS, ROWS, BATCHES = 0, 1, 2
"""The kinds of permutation. The kind is the second number of the seed, so that no two permutations are the same: numpy
fills a short seed with zeros, so the numbers after it may be 0 or absent."""
ROW_BITS = 32  # of a key, for the row's number in its shard


@dataclass(frozen=True, order=True)
class Address:
    """The place of a row in the pack: the shard's number and the row's number in it."""

    shard: int
    row: int


class SampleOrder:
    """The stream of samples of a whole run.

    Args:
        shards: per shard, the numbers of the rows that take part, in the shard's order.
        seed: seed of all permutations.
        epochs: passes over all rows.
        global_batch: rows per optimiser step, over all workers.
        max_steps: stop after this many steps; None for all epochs.
        lengths: per shard, the tokens of each row in `shards`. Needed for a window above 1.
        window: global batches whose rows are sorted by length together.
        tail: 'drop' or 'keep' the last rows, which do not fill a global batch.

    Raises ConfigError if there are too few rows for a single step.
    """

    def __init__(
        self,
        shards: Sequence[Rows],
        seed: int,
        epochs: int,
        global_batch: int,
        max_steps: int | None = None,
        lengths: Sequence[npt.NDArray[np.int32]] | None = None,
        window: int = 1,
        tail: Tail = "drop",
    ) -> None:
        assert window == 1 or lengths is not None
        self._shards, self._lengths = shards, lengths  # not copied: 10 million rows are 120 MB
        self._sizes = np.array([len(rows) for rows in shards], dtype=np.int64)
        self.rows = int(self._sizes.sum())
        self.seed, self.global_batch, self.window = seed, global_batch, window
        self._plain = partial(SampleOrder, shards, seed, epochs, global_batch, max_steps, lengths, 1, tail)
        available = epochs * self.rows
        self._full = available // global_batch if max_steps is None else min(max_steps, available // global_batch)
        self.samples = self._full * global_batch
        """Samples of the whole run; a row that is seen twice counts twice."""
        if tail == "keep" and (max_steps is None or self._full < max_steps):
            self.samples = available
        self.steps = -(-self.samples // global_batch)
        if self.steps == 0:
            raise ConfigError(
                f"training: {self.rows} usable rows in {epochs} epochs do not fill one step of "
                f"global_batch = {global_batch}; make it smaller, or train on more data"
            )
        self._epoch = lru_cache(maxsize=2)(self._permuted)
        self._within = lru_cache(maxsize=8)(self._permuted_rows)
        self._of_window = lru_cache(maxsize=2)(self._batches)

    @property
    def distinct(self) -> int:
        """Rows that are seen at least once."""
        return min(self.samples, self.rows)

    def seen(self, steps: int) -> int:
        """Samples of the first steps."""
        return min(steps * self.global_batch, self.samples)

    def batch(self, step: int) -> list[Address]:
        """The rows of a global batch, sorted by their places in the pack.

        Raises IndexError for a step that the run does not have.
        """
        return _addresses(self._keys(step))

    def slice(self, step: int, rank: int, world_size: int) -> list[Address]:
        """A worker's contiguous part of a global batch. Parts differ in size by at most one and make up the batch."""
        keys = self._keys(step)
        return _addresses(keys[rank * len(keys) // world_size : (rank + 1) * len(keys) // world_size])

    def without_buckets(self) -> "SampleOrder":
        """The same order with a window of 1, to compare with."""
        return self._plain()

    def size(self, step: int) -> int:
        """Rows of a global batch: `global_batch`, or fewer in a last batch that is kept. Reads no order."""
        return self.seen(step + 1) - self.seen(step)

    def lengths_of(self, addresses: Sequence[Address]) -> npt.NDArray[np.int32]:
        """(rows,) tokens of rows that take part. Raises ValueError if the order was made without lengths."""
        if self._lengths is None:
            raise ValueError("this order has no lengths")
        at = [int(np.searchsorted(self._shards[address.shard], address.row)) for address in addresses]
        return np.array([self._lengths[a.shard][i] for a, i in zip(addresses, at, strict=True)], dtype=np.int32)

    def _keys(self, step: int) -> Rows:
        """The rows of a global batch as sorted keys."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a run of {self.steps} steps")
        return self._of_window(step // self.window)[step % self.window]

    def _batches(self, window: int) -> list[Rows]:
        """The batches of a window, in the order in which they are trained on, each with sorted keys."""
        first = window * self.window
        steps = range(first, min(first + self.window, self.steps))
        start, size = first * self.global_batch, self.global_batch
        keys, lengths = self._stream(start, self.seen(steps[-1] + 1))
        batches = [keys[i * size : (i + 1) * size] for i in range(len(steps))]
        if self.window > 1:
            turns = np.random.default_rng([self.seed, BATCHES, window])
            for whole in self._of_one_epoch(steps):
                rows = slice(whole[0] * size - start, (whole[-1] + 1) * size - start)
                by_length = keys[rows][np.argsort(lengths[rows], kind="stable")].reshape(len(whole), size)
                batches[whole[0] - first : whole[-1] + 1 - first] = list(turns.permutation(by_length))
        # Sorted, so that each worker's part lies in few row groups: losses are means over the global batch, so only
        # rounding depends on its order.
        return [np.sort(batch) for batch in batches]

    def _of_one_epoch(self, steps: range) -> list[range]:
        """The longest runs of these steps whose batches are full and lie in one and the same epoch.

        Only their rows are sorted by length: a row never moves to another epoch, and two copies of a row never meet.
        """
        runs: list[range] = []
        last_epoch = -1
        for step in steps:
            epoch = step * self.global_batch // self.rows
            if ((step + 1) * self.global_batch - 1) // self.rows != epoch:  # true of a smaller last batch, too
                continue
            runs = (
                [*runs[:-1], range(runs[-1].start, step + 1)] if epoch == last_epoch else [*runs, range(step, step + 1)]
            )
            last_epoch = epoch
        return runs

    def _stream(self, first: int, last: int) -> tuple[Rows, Rows]:
        """The keys and the lengths of the rows at positions [first, last) of the stream; no length buckets.

        Takes one slice of each shard, because a window has a thousand rows or more.
        """
        keys, lengths = [], []
        while first < last:
            epoch, place = divmod(first, self.rows)
            shards, ends = self._epoch(epoch)
            turn = int(np.searchsorted(ends, place, side="right"))
            shard, end = int(shards[turn]), int(ends[turn])
            begin = place - (end - int(self._sizes[shard]))
            count = min(last - first, end - place)
            places = self._within(epoch, shard)[begin : begin + count]
            keys.append(shard << ROW_BITS | np.asarray(self._shards[shard][places], dtype=np.int64))
            if self._lengths is not None:
                lengths.append(self._lengths[shard][places])
            first += count
        return np.concatenate(keys), np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)

    def _permuted(self, epoch: int) -> tuple[Rows, Rows]:
        """The shards in the order of an epoch, and the end of each in the epoch's stream."""
        # Shards are permuted, then rows within each, and not all rows at once: a worker reads one shard after another,
        # and keeps only few row groups in memory.
        shards = np.arange(len(self._sizes), dtype=np.int64)
        if epoch:
            shards = np.random.default_rng([self.seed, SHARDS, epoch]).permutation(shards)
        return shards, np.cumsum(self._sizes[shards])

    def _permuted_rows(self, epoch: int, shard: int) -> Rows:
        """The places of a shard's rows in the order of an epoch."""
        places = np.arange(self._sizes[shard], dtype=np.int64)
        return np.random.default_rng([self.seed, ROWS, epoch, shard]).permutation(places) if epoch else places


def _addresses(keys: Rows) -> list[Address]:
    """The addresses of keys; a key is the shard's number and the row's number in one integer."""
    return [Address(key >> ROW_BITS, key & (1 << ROW_BITS) - 1) for key in keys.tolist()]
