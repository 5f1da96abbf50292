"""Finds duplicates and shared images among the rows (key, sample_id) of one bucket. Row order does not matter."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.overlap.config import DUPLICATES, images_of
from pipeline.schemas import OVERLAP


def find_duplicates(rows: pa.Table) -> pa.Table:
    """A row of OVERLAP for each record whose key another record has too, except for the original.

    The original of equal records is the one with the smallest id, among those that are no raw copies ('#k') if there
    are any.
    """
    counts = rows.group_by("key").aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts["count_all"], 1))["key"].combine_chunks()
    rows = rows.filter(pc.is_in(rows["key"], value_set=repeated)).combine_chunks()
    if not rows.num_rows:
        return OVERLAP.empty_table()
    rows = rows.append_column("copy", pc.match_substring(rows["sample_id"], "#"))
    rows = rows.sort_by([(name, "ascending") for name in ("key", "copy", "sample_id")])
    keys = rows["key"].combine_chunks()
    fresh = np.concatenate([[True], pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)])
    place = np.arange(len(fresh))
    original = np.maximum.accumulate(np.where(fresh, place, 0))
    return _found(
        rows["sample_id"].filter(pa.array(~fresh)), DUPLICATES, rows["sample_id"].take(pa.array(original[~fresh]))
    )


@dataclass(frozen=True)
class Shared:
    """The images of one data set that others hold too."""

    images: int
    """Different images."""
    images_in: dict[str, int]
    """Other data set -> images that it holds too."""
    images_in_others: int
    """Images that any of the others holds too."""
    rows: dict[str, pa.Table] = field(repr=False)
    """Other data set -> a row of OVERLAP for each record on such an image."""


def find_shared(rows: Mapping[str, pa.Table]) -> dict[str, Shared]:
    """For each data set the images that the others hold too. `rows`: data set -> its rows; keys are images."""
    images = {name: pc.unique(table["key"]) for name, table in rows.items()}
    found = {}
    for name, table in rows.items():
        masks = {
            other: pc.is_in(images[name], value_set=held).to_numpy(zero_copy_only=False)
            for other, held in images.items()
            if other != name
        }
        found[name] = Shared(
            images=len(images[name]),
            images_in={other: int(mask.sum()) for other, mask in masks.items()},
            images_in_others=int(np.any(list(masks.values()), axis=0).sum()),
            rows={other: _on(table, images[name].filter(pa.array(mask)), other) for other, mask in masks.items()},
        )
    return found


def _on(table: pa.Table, images: pa.Array, other: str) -> pa.Table:
    found = pc.index_in(table["key"], value_set=images)
    checksums = pa.array([key.hex() for key in images.to_pylist()], pa.string())
    return _found(table["sample_id"].filter(found.is_valid()), images_of(other), checksums.take(found.drop_null()))


def _found(sample_ids: pa.ChunkedArray, kind: str, other: pa.Array | pa.ChunkedArray) -> pa.Table:
    kinds = pa.repeat(pa.scalar(kind), len(sample_ids))
    return pa.table([sample_ids, kinds, other], schema=OVERLAP)
