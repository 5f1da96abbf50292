"""The first pass over a raw data set: which records are chosen, which are exact copies, which images repeat.

Sixteen bytes are kept for a record, so that millions of them fit; the records themselves are read again when used.
"""

import hashlib
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
import numpy.typing as npt

from model.errors import DataError
from pipeline.sources.records import Entry, RawSource, Record, copy_id, order_key

Keys = npt.NDArray[np.uint64]
_MIX = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio in 64 bits: spreads the copies of a record over the hash order


def key_of(purpose: str, seed: int, name: str) -> int:
    """The first 64 bits of a name's place in the hash order of a purpose."""
    return int.from_bytes(order_key(purpose, seed, name)[:8], "big")


def image_key(reference: str) -> int:
    """64 bits that stand for an image path."""
    return key_of("image", 0, reference)


@dataclass(frozen=True)
class Index:
    """What the first pass learned."""

    total: int
    """Records in the raw data, good and bad."""
    chosen: npt.NDArray[np.bool_] | None
    """Per record, whether the limit takes it; None takes all."""
    repeated: frozenset[int]
    """Keys of records that occur more than once."""
    image_uses: dict[int, int]
    """Image key -> chosen records that use it, for images that more than one uses."""
    images: int
    """Different image paths among the chosen records."""
    digest: str
    """Of all records' ids in file order: what else is read under this index is another data set."""
    seed: int

    @property
    def taken(self) -> int:
        """Records that the limit takes."""
        return self.total if self.chosen is None else int(self.chosen.sum())

    def walk(self, source: RawSource) -> Iterator[Entry]:
        """The chosen records in file order, exact copies numbered.

        Raises DataError at its end if the source did not give the records of the first pass.
        """
        numbered = self._numbered(source)
        return numbered if self.chosen is None else compress(numbered, self.chosen)

    def _numbered(self, source: RawSource) -> Iterator[Entry]:
        copies: dict[str, int] = {}
        hasher, seen = hashlib.sha256(), 0
        for entry in source.entries():
            seen += 1
            if seen > self.total:
                break
            key = key_of("limit", self.seed, entry.sample_id)
            hasher.update(key.to_bytes(8, sys.byteorder))
            if key in self.repeated:
                before = copies.get(entry.sample_id, 0)
                copies[entry.sample_id] = before + 1
                yield replace(entry, sample_id=copy_id(entry.sample_id, before))
            else:
                yield entry
        if seen != self.total or hasher.hexdigest() != self.digest:
            now = "more" if seen > self.total else "others" if seen == self.total else seen
            raise DataError(
                f"the raw data held {self.total} records when it was first read, and {now} when it was read again: "
                "it was changed meanwhile; run again when nothing writes to it"
            )


def build_index(source: RawSource, seed: int, limit: int | None = None) -> Index:
    """Read a source once. With a limit, the first `limit` records of the seeded hash order are chosen."""
    keys, images = array("Q"), array("Q")
    for entry in source.entries():
        keys.append(key_of("limit", seed, entry.sample_id))
        images.append(image_key(entry.image) if isinstance(entry, Record) and entry.image is not None else 0)
    record_keys = np.frombuffer(keys, dtype=np.uint64) if keys else np.zeros(0, np.uint64)
    chosen = None if limit is None or limit >= len(keys) else _first(record_keys, limit)
    image_keys = np.frombuffer(images, dtype=np.uint64) if images else np.zeros(0, np.uint64)
    if chosen is not None:
        image_keys = image_keys[chosen]
    values, counts = np.unique(image_keys[image_keys > 0], return_counts=True)
    more = counts > 1
    uses = dict(zip(values[more].tolist(), counts[more].tolist(), strict=True))
    images_named = len(values)
    values, counts = np.unique(record_keys, return_counts=True)
    digest = hashlib.sha256(record_keys.tobytes()).hexdigest()
    return Index(len(keys), chosen, frozenset(values[counts > 1].tolist()), uses, images_named, digest, seed)


def _first(keys: Keys, limit: int) -> npt.NDArray[np.bool_]:
    """Mask of the `limit` records that come first; a copy's place follows from its record's and its number."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    fresh = np.ones(len(keys), dtype=bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    positions = np.arange(len(keys))
    number = positions - np.maximum.accumulate(np.where(fresh, positions, 0))
    places = ordered + number.astype(np.uint64) * _MIX  # wraps around on purpose
    mask = np.zeros(len(keys), dtype=bool)
    mask[order[np.argsort(places, kind="stable")[:limit]]] = True
    return mask
