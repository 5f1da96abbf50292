"""The samples of a stage: its pack, the rows that take part, and their order. No torch: the driver uses this too."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.errors import DataError
from model.stage_table import StageRow
from pipeline.training.config import StageConfig
from pipeline.training.data.index import PackIndex
from pipeline.training.data.order import Address, SampleOrder
from pipeline.training.data.pack_reader import PackReader

HELD_OUT, MOST_HELD_OUT = 3, 20
"""The held-out rows' part of a seed (0 to 2: `order`), and the least number of rows of a pack for one held-out row."""


@dataclass(frozen=True)
class Samples:
    """A stage's samples."""

    index: PackIndex
    reader: PackReader
    order: SampleOrder
    dropped: dict[int, npt.NDArray[np.int64]]
    """The text-only rows that do not take part, by shard; only shards that have such rows."""
    held_out: list[Address]
    """Rows that are not trained on, for the held-out loss; sorted."""

    @property
    def dropped_rows(self) -> int:
        """Number of rows that do not take part."""
        return sum(map(len, self.dropped.values()))

    def sample_ids(self, shard: int) -> list[str]:
        """The sample ids of a shard, in its order; no other column is read. Raises DataError if it is damaged."""
        ids: list[str] = self.index.files.column(shard, ["sample_id"]).column("sample_id").to_pylist()
        return ids

    def rejects(self, row: StageRow) -> Iterator[tuple[str, str, str]]:
        """The dropped rows as (sample id, reason, detail). Reads the ids of their shards. Raises DataError."""
        files = self.index.files
        tables = files.each(self.dropped, lambda shard: files.column(shard, ["sample_id"]))
        for places, table in zip(self.dropped.values(), tables, strict=True):
            for sample_id in table.column("sample_id").take(places).to_pylist():
                yield sample_id, "text_only", f"{row.name} trains nothing that sees text alone"


def open_samples(index: PackIndex, row: StageRow, config: StageConfig, seed: int) -> Samples:
    """The samples of a stage. Reads no file of the pack.

    Where the language model is frozen, text-only rows are dropped: nothing that trains would get a gradient from them.
    The held-out rows are chosen from all rows of the pack, so that stages on one pack keep the same ones out.
    Raises ConfigError if the rows do not fill one step, DataError if there is none.
    """
    sizes = [index.shard_rows(shard) for shard in range(len(index))]
    out = _held_out(sizes, config.held_out, seed)
    kept, lengths, held_out, dropped = [], [], [], {}
    for shard, size in enumerate(sizes):
        takes_part = np.ones(size, dtype=bool) if row.language_model else index.image_bytes(shard) > 0
        if not takes_part.all():
            dropped[shard] = np.flatnonzero(~takes_part)
        held_out += [Address(shard, int(i)) for i in np.flatnonzero(takes_part & out[shard])]
        rows = np.flatnonzero(takes_part & ~out[shard])
        kept.append(rows)
        # A view where all rows take part, so that the lengths of millions of rows stay in the mapped file.
        lengths.append(index.lengths(shard) if len(rows) == size else index.lengths(shard)[rows])
    if not any(map(len, kept)):
        raise DataError(
            f"{row.name}: none of the {sum(sizes):,} rows of pack {index.files.name} can be trained on, because none "
            "has an image and this stage trains nothing that sees text alone; use a data set with images"
        )
    order = SampleOrder(
        kept, seed, config.epochs, config.global_batch, config.max_steps, lengths, config.length_window, config.tail
    )
    return Samples(index, PackReader(index), order, dropped, held_out)


def _held_out(sizes: list[int], wanted: int, seed: int) -> list[npt.NDArray[np.bool_]]:
    """Per shard, (rows,) True for the held-out rows of a pack."""
    total = sum(sizes)
    out = np.zeros(total, dtype=bool)
    count = min(wanted, total // MOST_HELD_OUT)
    out[np.random.default_rng([seed, HELD_OUT]).choice(total, count, replace=False)] = True
    return np.split(out, np.cumsum(sizes)[:-1])
