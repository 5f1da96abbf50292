"""The choice of a subset: the first records of a seeded hash order, over all sources or for each source.

The sort key of a record depends on the seed and its id only. So the choice does not depend on the order of the files,
and a smaller subset is part of every larger one. Memory holds at most twice the records that are asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from model.errors import ConfigError
from pipeline.compute.sorting import halves, order_keys

Places = npt.NDArray[np.int64]
SLACK = 4096  # candidates above `size`, at least, before the worst are dropped
SHOWN = 20  # names of sources that an error lists


class TopN:
    """The `size` smallest keys of a stream, with the places of their records."""

    def __init__(self, size: int) -> None:
        self.size, self.seen = size, 0
        self._high, self._low = np.empty(0, np.uint64), np.empty(0, np.uint64)
        self._places = np.empty(0, np.int64)
        self._room = size + max(size, SLACK)
        self._new: list[tuple[npt.NDArray[np.uint64], Places]] = []
        self._waiting = 0
        self._worst = np.uint64(2**64 - 1)

    def add(self, keys: npt.NDArray[np.uint64], places: Places) -> None:
        """Add keys (records, 2), as `halves` gives them, and the records' places."""
        self.seen += len(keys)
        good = keys[:, 0] <= self._worst  # others cannot be among the smallest
        self._new.append((keys[good], places[good]))
        self._waiting += int(good.sum())
        if self._waiting + len(self._places) > self._room:
            self._compact()

    def chosen(self) -> Places:
        """Places of the chosen records, ascending."""
        self._compact()
        return np.sort(self._places)

    def _compact(self) -> None:
        """Drop all candidates but the `size` smallest."""
        keys = [np.stack([self._high, self._low], axis=1), *(keys for keys, _ in self._new)]
        high, low = np.concatenate(keys).T
        places = np.concatenate([self._places, *(places for _, places in self._new)])
        if len(high) > self.size:
            # The first halves nearly always differ, so only those around the last place are compared as a whole.
            last = np.partition(high, self.size)[self.size] if self.size else np.uint64(0)
            near = np.flatnonzero(high <= last)
            kept = near[np.lexsort((low[near], high[near]))[: self.size]]
            high, low, places = high[kept], low[kept], places[kept]
            self._worst = high[-1] if len(high) else np.uint64(0)
        self._high, self._low, self._places = high.copy(), low.copy(), places.copy()
        self._new, self._waiting = [], 0


@dataclass
class Selection:
    """Chooses records by their place in the inventory. `add` sees every record that can be chosen.

    Args:
        size: records to choose; None chooses all, and keeps nothing in memory.
        quotas: source -> records, in place of one size; None for no quotas.
    """

    seed: int
    size: int | None
    quotas: Mapping[str, int] | None = None
    available: int = 0
    """Records that can be chosen; with quotas, those of the named sources."""
    without_quota: int = 0
    """Records of sources that no quota names."""
    _tops: dict[str, TopN] = field(default_factory=dict)
    _sources: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.quotas is not None:
            self._tops = {source: TopN(size) for source, size in self.quotas.items()}
        elif self.size is not None:
            self._tops = {"": TopN(self.size)}

    def meet(self, sources: pa.Array) -> None:
        """Note the sources of records, also of those that cannot be chosen."""
        if self.quotas is not None:
            self._sources.update(sources.unique().to_pylist())

    def add(self, ids: pa.Array, sources: pa.Array | None, places: Places) -> None:
        """Add records that can be chosen: their ids, sources (needed for quotas) and places."""
        if self.quotas is None:
            self.available += len(ids)
            if self._tops:
                self._tops[""].add(halves(order_keys("subset", self.seed, ids)), places)
            return
        assert sources is not None
        named = 0
        for source, top in self._tops.items():
            mine = np.flatnonzero(pc.equal(sources, source).to_numpy(zero_copy_only=False))
            if len(mine):
                keys = halves(order_keys("subset", self.seed, ids.take(pa.array(mine))))
                top.add(keys, places[mine])
                named += len(mine)
        self.available += named
        self.without_quota += len(ids) - named

    def chosen(self) -> Places | None:
        """Places of the chosen records, ascending; None if all are chosen.

        Raises ConfigError if a quota names a source that no record has.
        """
        if not self._tops:
            return None
        unknown = sorted(set(self.quotas or ()) - self._sources)
        if unknown:
            known = sorted(self._sources)
            more = f", and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
            raise ConfigError(
                f"quotas: no record is of the source {unknown[0]!r}; the sources are "
                f"{', '.join(map(repr, known[:SHOWN])) or 'none'}{more}; correct 'quotas' in the recipe"
            )
        return np.sort(np.concatenate([top.chosen() for top in self._tops.values()]))

    def by_source(self) -> dict[str, dict[str, int]]:
        """For each quota: records that were requested, available and chosen."""
        quotas = self.quotas or {}
        return {
            name: {"requested": size, "available": self._tops[name].seen, "chosen": min(size, self._tops[name].seen)}
            for name, size in quotas.items()
        }

    @property
    def short(self) -> bool:
        """True if there are fewer records than requested, for one of the quotas at least."""
        return any(top.seen < top.size for top in self._tops.values())
