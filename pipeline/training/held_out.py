"""The held-out loss: L_LM, and L_g where the stage is guided, on rows of the pack that are never trained on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

import torch

from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.outputs import AgeVlmOutput
from pipeline.training.data.batches import IGNORE, Batch, Collator
from pipeline.training.data.pack_reader import PackRow
from pipeline.training.data.samples import Samples
from pipeline.training.watch.metrics import all_reduce, exact_dtype


class HeldOut:
    """A worker's held-out rows. They stay in memory as the pack has them: a few hundred compressed images at most.

    Args:
        rows: this worker's rows, with as many on every worker; `counted` of them count, and the rest fill up.
        picture: a row with an image, which fills up a micro-batch that has none; None adds nothing.
        collate: a collator of its own, because training's is used by another thread.
        micro_batch: rows of one forward pass.
    """

    def __init__(
        self,
        rows: Sequence[PackRow],
        counted: int,
        collate: Collator,
        micro_batch: int,
        picture: PackRow | None = None,
    ) -> None:
        self._rows, self._counted, self._collate, self._micro_batch = rows, counted, collate, micro_batch
        self._picture = picture

    @classmethod
    def read(
        cls, samples: Samples, collate: Collator, micro_batch: int, rank: int = 0, workers: int = 1
    ) -> Self | None:
        """Read a worker's part of the held-out rows; None if the stage has none. Call it before training reads."""
        rows = samples.held_out
        if not rows:
            return None
        mine = rows[rank * len(rows) // workers : (rank + 1) * len(rows) // workers]
        # Under FSDP2 the workers must call the model equally often, so a worker with fewer rows takes one that does not
        # count.
        most = -(-len(rows) // workers)
        padded = mine + rows[:1] * (most - len(mine))
        # It also waits for the parameters of every block, so either all workers run the encoder or none does.
        images = (a for a in rows if samples.index.image_bytes(a.shard)[a.row]) if workers > 1 else iter(())
        first = next(images, None)
        picture = None if first is None else samples.reader.row(first)
        return cls([samples.reader.row(address) for address in padded], len(mine), collate, micro_batch, picture)

    def losses(
        self, model: AgeVlmForConditionalGeneration, forward: Callable[[Batch], AgeVlmOutput]
    ) -> tuple[float | None, float | None]:
        """L_LM per target token and L_g per guided row over the rows of all workers, in evaluation mode.

        None where no row counts. Changes nothing of the model. Every worker must call this. `forward`: calls the model
        as training does, with its parallelism and precision.
        """
        device = model.device
        layers = model.config.num_cross_attention_layers
        language = torch.zeros(2, dtype=exact_dtype(device), device=device)  # sum and tokens
        guidance = torch.zeros(layers, dtype=exact_dtype(device), device=device)
        guided = torch.zeros(1, dtype=exact_dtype(device), device=device)
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                for first in range(0, len(self._rows), self._micro_batch):
                    batch = self._batch(first)
                    out = forward(batch)
                    assert out.lm_loss_sum is not None
                    language[0] += out.lm_loss_sum.sum()
                    language[1] += batch.target_tokens
                    if out.guidance_loss_sum is not None:
                        guidance += out.guidance_loss_sum
                        guided += batch.guided_rows
        finally:
            model.train(training)
        sums = all_reduce(torch.cat([language, guided, guidance])).cpu().double()
        tokens, rows = float(sums[1]), float(sums[2])
        return (
            float(sums[0]) / tokens if tokens else None,
            float(model.reduce_guidance(sums[3:], sums[2])) if rows else None,
        )

    def _batch(self, first: int) -> Batch:
        """A micro-batch in which the rows that fill up have no target token and no guidance."""
        rows = self._rows[first : first + self._micro_batch]
        counted = max(0, min(len(rows), self._counted - first))
        if self._picture is not None and all(row.image is None for row in rows):
            rows = [*rows, self._picture]
        batch = self._collate(rows)
        if counted == len(rows):
            return batch
        labels = batch.labels.clone()
        labels[counted:] = IGNORE
        batch = replace(batch, labels=labels, target_tokens=int((labels[:, 1:] != IGNORE).sum()))
        if batch.guided is None:
            return batch
        guided = batch.guided.clone()
        guided[counted:] = False
        return replace(batch, guided=guided, guided_rows=int(guided.sum()))
