"""The samples of a stage: its pack, the rows that take part, and their order. No torch: the driver uses this too."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.stage_table import StageRow
from pipeline.training.config import StageConfig
from pipeline.training.order import SampleOrder
from pipeline.training.pack_reader import PackReader


@dataclass(frozen=True)
class Samples:
    """A stage's samples. `dropped`: rows that do not take part, as (sample id, reason, detail)."""

    reader: PackReader
    order: SampleOrder
    dropped: list[tuple[str, str, str]]


def open_samples(folder: Path, row: StageRow, config: StageConfig, seed: int) -> Samples:
    """Open a pack for a stage.

    Where the language model is frozen, text-only rows are dropped: nothing that trains would get a gradient from them.
    Raises DataError for a damaged pack, ConfigError if its rows do not fill one step.
    """
    reader = PackReader(folder)
    kept, dropped = [], []
    for shard in range(len(reader.paths)):
        if row.language_model:
            kept.append(np.arange(reader.shard_rows(shard)))
            continue
        with_image = reader.with_image(shard)
        kept.append(np.flatnonzero(with_image))
        if not with_image.all():
            ids = reader.sample_ids(shard)
            dropped += [
                (ids[i], "text_only", f"{row.name} trains nothing that sees text alone")
                for i in np.flatnonzero(~with_image)
            ]
    return Samples(reader, SampleOrder(kept, seed, config.epochs, config.global_batch, config.max_steps), dropped)
