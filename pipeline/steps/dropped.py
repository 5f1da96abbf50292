"""The records that a recipe drops (`data.NAME.drop`), as the step `overlap` found them."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.overlap.config import DropKind
from pipeline.steps.context import StepContext
from pipeline.steps.record_batches import record_batches

Digests = npt.NDArray[np.bytes_]


class Dropped:
    """Looks up records that are dropped. Takes 16 bytes of memory per record and kind.

    Args:
        kinds: the kinds that are dropped. A record of several kinds counts for the first of them.
        files: tables with the columns of OVERLAP.
    """

    def __init__(self, kinds: Sequence[DropKind], files: Sequence[Path]) -> None:
        self.counts = Counter[str]()
        """Kind -> records that `find` was asked to count so far."""
        self._kinds = kinds
        self._sorted = [np.sort(np.concatenate([_no_digests(), *_of_kind(files, kind)])) for kind in kinds]

    def find(self, sample_ids: pa.Array, count: bool = False) -> npt.NDArray[np.bool_]:
        """True for each record that is dropped; `count` adds them to the counts."""
        found = np.zeros(len(sample_ids), dtype=bool)
        digests = _digests(sample_ids)
        for kind, dropped in zip(self._kinds, self._sorted, strict=True):
            if len(dropped):
                places = np.minimum(np.searchsorted(dropped, digests), len(dropped) - 1)
                fresh = (dropped[places] == digests) & ~found
                if count:
                    self.counts[kind] += int(fresh.sum())
                found |= fresh
        return found


def dropped_records(context: StepContext, dataset: str, kinds: Sequence[DropKind]) -> Dropped | None:
    """The records of a data set that are dropped; None if the recipe drops nothing."""
    if not kinds:
        return None
    folder = context.input_path("overlap", f"{dataset}/")
    return Dropped(kinds, [folder / file for file in context.inputs["overlap"].matching(f"{dataset}/", ".parquet")])


def _of_kind(files: Sequence[Path], kind: str) -> Iterator[Digests]:
    for batch in record_batches(files, ["sample_id", "kind"]):
        yield _digests(batch["sample_id"].filter(pc.equal(batch["kind"], kind)))


def _digests(sample_ids: pa.Array) -> Digests:
    joined = b"".join(hashlib.blake2b(name.encode(), digest_size=16).digest() for name in sample_ids.to_pylist())
    return np.frombuffer(joined, dtype="S16")


def _no_digests() -> Digests:
    return np.zeros(0, dtype="S16")
