"""The order of samples: the row of the pack at each position of the training stream.

A pure function of (seed, epoch, global step, global batch). It does not depend on the number of workers: each worker
takes its slice of each global batch. Epoch 0 has the order of the pack, which is random already; each later epoch
permutes the shards, and the rows within each shard, from (seed, epoch).

The stream is one epoch after the other, cut into global batches. The last batch of an epoch is filled up with the first
rows of the next one, so every row is seen once per epoch. Only the rows that are left at the end of the last epoch
(fewer than one global batch) are not trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from model.errors import ConfigError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Address:
    """The place of a row in the pack: the shard's number and the row's number in it."""

    shard: int
    row: int


class SampleOrder:
    """The stream of samples of a whole run.

    Args:
        shards: per shard, the numbers of the rows that take part, in the shard's order.
        seed: seed of the permutations of later epochs.
        epochs: passes over all rows.
        global_batch: rows per optimiser step, over all workers.
        max_steps: stop after this many steps; None for all epochs.

    Raises ConfigError if there are too few rows for a single step.
    """

    def __init__(
        self, shards: Sequence[Rows], seed: int, epochs: int, global_batch: int, max_steps: int | None = None
    ) -> None:
        self._shards = [np.asarray(rows, dtype=np.int64) for rows in shards]
        self._sizes = np.array([len(rows) for rows in self._shards], dtype=np.int64)
        self.rows = int(self._sizes.sum())
        self.seed, self.global_batch = seed, global_batch
        whole = epochs * self.rows // global_batch
        self.steps = whole if max_steps is None else min(max_steps, whole)
        if self.steps == 0:
            raise ConfigError(
                f"training: {self.rows} usable rows in {epochs} epochs do not fill one step of "
                f"global_batch = {global_batch}; make it smaller, or train on more data"
            )
        self._epoch = lru_cache(maxsize=2)(self._permuted)
        self._within = lru_cache(maxsize=8)(self._permuted_rows)

    @property
    def samples(self) -> int:
        """Samples of the whole run; a row that is seen twice counts twice."""
        return self.steps * self.global_batch

    @property
    def distinct(self) -> int:
        """Rows that are seen at least once."""
        return min(self.samples, self.rows)

    def at(self, position: int) -> Address:
        """The row at a position of the stream, 0 <= position < epochs * rows."""
        epoch, place = divmod(position, self.rows)
        order, ends = self._epoch(epoch)
        turn = int(np.searchsorted(ends, place, side="right"))
        shard = int(order[turn])
        start = int(ends[turn - 1]) if turn else 0
        return Address(shard, int(self._within(epoch, shard)[place - start]))

    def batch(self, step: int) -> list[Address]:
        """The rows of a global batch, in order. Raises IndexError for a step that the run does not have."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a run of {self.steps} steps")
        first = step * self.global_batch
        return [self.at(position) for position in range(first, first + self.global_batch)]

    def slice(self, step: int, rank: int, world_size: int) -> list[Address]:
        """A worker's contiguous part of a global batch. Parts differ in size by at most one and make up the batch."""
        batch = self.batch(step)
        return batch[rank * len(batch) // world_size : (rank + 1) * len(batch) // world_size]

    def _permuted(self, epoch: int) -> tuple[Rows, Rows]:
        """The shards in the order of an epoch, and the end of each in the epoch's stream."""
        # Shards are permuted, then rows within each, and not all rows at once: a worker reads one shard after another,
        # and PackReader keeps the row groups of one shard in memory.
        shards = np.arange(len(self._sizes), dtype=np.int64)
        if epoch:
            shards = np.random.default_rng([self.seed, epoch, 0]).permutation(shards)
        return shards, np.cumsum(self._sizes[shards])

    def _permuted_rows(self, epoch: int, shard: int) -> Rows:
        """A shard's rows in the order of an epoch."""
        rows = self._shards[shard]
        return np.random.default_rng([self.seed, epoch, 1, shard]).permutation(rows) if epoch else rows
