"""The first pass over a raw data set: it finds the chosen records, exact copies and repeated images.

It keeps 16 bytes per record, so that millions of records fit into memory. The second pass (`Index.walk`) reads the
records again.
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
    """The first 64 bits of a name's sort key (`order_key`) as a number."""
    return int.from_bytes(order_key(purpose, seed, name)[:8], "big")


def image_key(reference: str) -> int:
    """A 64-bit hash of an image path."""
    return key_of("image", 0, reference)


@dataclass(frozen=True)
class Index:
    """The results of the first pass."""

    total: int
    """Records in the raw data, good and bad."""
    chosen: npt.NDArray[np.bool_] | None
    """(records,) True for records that the limit takes; None takes all."""
    repeated: frozenset[int]
    """Keys of records that occur more than once."""
    image_uses: dict[int, int]
    """Image key -> chosen records that use it, for images that more than one uses."""
    images: int
    """Different image paths among the chosen records."""
    digest: str
    """Digest of all records' ids in file order: if the second pass has another one, the data changed."""
    seed: int

    @property
    def taken(self) -> int:
        """Records that the limit takes."""
        return self.total if self.chosen is None else int(self.chosen.sum())

    def walk(self, source: RawSource) -> Iterator[Entry]:
        """The chosen records in file order, with the ids of exact copies numbered.

        Raises DataError at the end if the source gives other records than in the first pass.
        """
        numbered = self._numbered(source)
        return numbered if self.chosen is None else compress(numbered, self.chosen)

    def _numbered(self, source: RawSource) -> Iterator[Entry]:
        # Only records whose key repeats are counted, so `copies` stays small. Counts are per full id, so two records
        # that share a 64-bit key by chance are not taken for copies. The digest covers all records, chosen or not.
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
            now = "more" if seen > self.total else "other ones" if seen == self.total else seen
            raise DataError(
                f"the raw data changed while it was read: it had {self.total} records at first and {now} in the "
                "second pass; run again when nothing writes to it"
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
    """Mask of the first `limit` records in hash order."""
    # Equal keys are exact copies. Copy n of a record is moved by n * _MIX, so that a limit does not take all copies
    # of a record or none. A place depends on the record and its number only, so a larger limit only adds records.
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
