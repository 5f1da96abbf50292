"""The index of a pack: rows, row groups, and each row's tokens and image bytes, of all shards in a few arrays.

The driver of a stage makes it once, from the footers and two small columns of each shard, and commits it to the store.
Workers map the arrays into memory, so that none of them opens thousands of footers: ten million rows take 80 MB, which
the workers of a machine share.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from model.errors import DataError
from pipeline.artifacts.atomic import new_folder
from pipeline.artifacts.spec import digest
from pipeline.training.data.pack_files import PackFiles

FACTS, ROWS, GROUPS, LENGTHS, IMAGE_BYTES = "index.json", "rows.npy", "groups.npy", "lengths.npy", "image_bytes.npy"
Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Shard:
    """One shard in the index."""

    groups: Numbers
    """The end of each row group, in rows."""
    lengths: Numbers
    image_bytes: Numbers


class PackIndex:
    """The rows of a pack's shards.

    Args:
        files: the shards.
        rows: per shard, the end of its rows in the arrays below. groups: per shard, the end of its row groups.
        group_ends: per row group, the end of its rows in its shard.
        lengths, image_bytes: per row, the number of tokens, and the size of its image (0: text only).
    """

    def __init__(
        self,
        files: PackFiles,
        rows: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        group_ends: Numbers,
        lengths: Numbers,
        image_bytes: Numbers,
    ) -> None:
        self.files = files
        self._rows, self._groups, self._group_ends = rows, groups, group_ends
        self._lengths, self._image_bytes = lengths, image_bytes

    @classmethod
    def read(cls, files: PackFiles) -> Self:
        """Read the footers, `length` and `image_bytes` of all shards. Raises DataError for a damaged shard."""
        shards = list(files.each(range(len(files.shards)), lambda number: _read_shard(files, number)))
        return cls(
            files,
            np.cumsum([len(shard.lengths) for shard in shards], dtype=np.int64),
            np.cumsum([len(shard.groups) for shard in shards], dtype=np.int64),
            np.concatenate([shard.groups for shard in shards]),
            np.concatenate([shard.lengths for shard in shards]),
            np.concatenate([shard.image_bytes for shard in shards]),
        )

    @classmethod
    def open(cls, folder: Path, files: PackFiles) -> Self:
        """Map an index that `save` wrote into memory. Raises DataError if it is missing, or one of another pack."""
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="ascii"))
            # One file holds both ends, the arrays over rows are mapped: all workers of a machine share their pages.
            rows, groups = np.load(folder / ROWS)
            mapped = [np.load(folder / name, mmap_mode="r") for name in (GROUPS, LENGTHS, IMAGE_BYTES)]
        except FileNotFoundError as error:
            raise DataError(
                f"{folder} holds no index of a pack ({error.filename} is missing); make it again"
            ) from error
        if facts["files"] != _fingerprint(files):
            raise DataError(f"{folder} holds the index of other files than those of pack {files.name}; make it again")
        return cls(files, rows, groups, *mapped)

    def save(self, folder: Path) -> None:
        """Write the index to a new folder."""
        with new_folder(folder) as partial:
            np.save(partial / ROWS, np.stack([self._rows, self._groups]))
            np.save(partial / GROUPS, self._group_ends)
            np.save(partial / LENGTHS, self._lengths)
            np.save(partial / IMAGE_BYTES, self._image_bytes)
            (partial / FACTS).write_text(json.dumps({"files": _fingerprint(self.files)}), encoding="ascii")

    def __len__(self) -> int:
        """Number of shards."""
        return len(self._rows)

    @property
    def rows(self) -> int:
        """Rows of the whole pack."""
        return int(self._rows[-1])

    def shard_rows(self, shard: int) -> int:
        """Rows of one shard."""
        start, end = _part(self._rows, shard)
        return end - start

    def lengths(self, shard: int) -> Numbers:
        """(rows,) tokens of each row of a shard: a view, not to be changed."""
        start, end = _part(self._rows, shard)
        return self._lengths[start:end]

    def image_bytes(self, shard: int) -> Numbers:
        """(rows,) size of each row's image, 0 for text-only rows: a view, not to be changed."""
        start, end = _part(self._rows, shard)
        return self._image_bytes[start:end]

    def group_ends(self, shard: int) -> Numbers:
        """(row groups,) the end of each row group of a shard, in rows."""
        start, end = _part(self._groups, shard)
        return self._group_ends[start:end]


def _part(ends: npt.NDArray[np.int64], number: int) -> tuple[int, int]:
    return (int(ends[number - 1]) if number else 0), int(ends[number])


def _fingerprint(files: PackFiles) -> str:
    return digest([[shard.path, shard.size, shard.sha256] for shard in files.shards])


def group_ends(file: pq.ParquetFile) -> Numbers:
    """(row groups,) the end of each row group of an open shard, in rows."""
    footer = file.metadata
    sizes = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    return np.cumsum(sizes, dtype=np.int32)


def _read_shard(files: PackFiles, number: int) -> _Shard:
    """Raises DataError for a damaged shard, or one with numbers missing."""
    with files.opened(number) as file:
        groups = group_ends(file)
        table = file.read(columns=["length", "image_bytes"], use_threads=False)
    for name in ("length", "image_bytes"):
        if table.column(name).null_count:
            raise DataError(f"{files.describe(number)}: {name} has gaps; run the step 'pack' again")
    if len(table) != (int(groups[-1]) if len(groups) else 0):
        raise DataError(f"{files.describe(number)}: its footer says {groups.tolist()} rows, but it has {len(table)}")
    lengths, sizes = (table.column(name).to_numpy().astype(np.int32) for name in ("length", "image_bytes"))
    return _Shard(groups, lengths, sizes)
