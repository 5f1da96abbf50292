"""A collator whose batches tell their origin. A module of its own: loader processes import it, and little else."""

import os
import time
from typing import Any

import torch

from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.errors import DataError
from pipeline.training.data.batches import Batch, Collator


class Tracing(Collator):
    """Batches say in their notes which rows they hold ('row <sample id>'), and which process made them.

    broken: sample id of a row that raises DataError. slow: seconds that a batch takes.
    """

    def __init__(self, broken: str | None = None, slow: float = 0.0) -> None:
        super().__init__(AgeVlmImageProcessor(64, 16), 0)
        self.broken, self.slow = broken, slow

    def __call__(self, rows: Any) -> Batch:
        time.sleep(self.slow)
        if any(row.sample_id == self.broken for row in rows):
            raise DataError(f"{self.broken} is broken")
        batch = super().__call__(rows)
        batch.notes.update(f"row {row.sample_id}" for row in rows if row.sample_id)
        batch.notes.update({"pid": os.getpid(), "threads": torch.get_num_threads()})
        return batch


def ids(batch: Batch) -> list[str]:
    """The sample ids of a traced batch."""
    return [name.removeprefix("row ") for name in batch.notes.elements() if name.startswith("row ")]
