"""The training loop of one stage: the same on one process and on many, with any number of micro-batches.

Per global batch: L = L_LM + lambda L_g, where L_LM is the mean over the batch's target tokens and L_g the mean over its
guided rows (paper section 3.2.2; about 3 % of the rows are guided). Both counts are summed over all workers and
micro-batches before any loss is scaled, so that dividing the batch in another way changes only rounding.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.errors import StepError
from model.stage_table import StageRow
from model.stages import parameter_groups
from pipeline.training.batches import Batch, Collator, prefetched
from pipeline.training.config import StageConfig
from pipeline.training.learning_rate import rate_factor
from pipeline.training.metrics import Log, all_reduce, exact_dtype, world_size
from pipeline.training.order import SampleOrder
from pipeline.training.pack_reader import PackReader

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


class StageTrainer:
    """Trains a model on this worker's slices of the sample order.

    Args:
        model: on its device, in fp32; parameters that require a gradient are trained.
        row: row of the stage table that was applied to the model.
        micro_batch: samples of one forward pass.
        rank: this worker's number; the number of workers comes from torch.distributed.
    """

    def __init__(
        self,
        model: AgeVlmForConditionalGeneration,
        row: StageRow,
        config: StageConfig,
        order: SampleOrder,
        reader: PackReader,
        collate: Collator,
        micro_batch: int,
        rank: int = 0,
    ) -> None:
        self.model, self.row, self.config = model, row, config
        self.order, self._reader, self._collate = order, reader, collate
        self._micro_batch, self._rank = micro_batch, rank
        self.device = model.device
        self.model.train()
        # The layout in which convolutions are fastest, on CPUs and on tensor cores. `run` undoes it at its end.
        self.model.model.vision_tower.to(memory_format=torch.channels_last)
        if config.activation_checkpointing:
            self.model.activation_checkpointing_enable()
        self.parallel: nn.Module = self.model
        if world_size() > 1:
            # Buffers (rotary frequencies) never change, so there is no need to broadcast them at each step.
            self.parallel = DistributedDataParallel(self.model, broadcast_buffers=False)
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay), lr=0.0, betas=(config.beta1, config.beta2), fused=True
        )
        self.log = Log(model.config.num_cross_attention_layers, self.device, model.config.guidance_reduction)
        self.notes: Counter[str] = Counter()
        self.gradient_norm = torch.zeros((), device=self.device)

    def run(self, report: Callable[[int, dict[str, Any] | None], None]) -> None:
        """Train from the first step to the last.

        report: called after each step with the number of steps done, and with a row of metrics every `log_every` steps.
        """
        batches = prefetched(self.micro_batches())
        try:
            for step in range(self.order.steps):
                waiting = time.monotonic()
                parts = next(batches)
                self.log.window.add(wait_seconds=time.monotonic() - waiting)
                rate = self.config.learning_rate * rate_factor(step, self.order.steps, self.config.warmup_ratio)
                self.step(parts, rate)
                done = step + 1
                row = None
                if done % self.config.log_every == 0 or done == self.order.steps:
                    row = self.log.row(done, done * self.order.global_batch, rate, self.gradient_norm)
                    if not torch.isfinite(torch.tensor([row["lm_loss"], row["gradient_norm"]])).all():
                        raise StepError(
                            f"{self.row.name}: step {done} has loss {row['lm_loss']} and gradient norm "
                            f"{row['gradient_norm']}; lower learning_rate or use precision fp32"
                        )
                report(done, row)
        finally:
            batches.close()  # type: ignore[attr-defined]
        self.model.model.vision_tower.to(memory_format=torch.contiguous_format)  # as safetensors wants it

    def micro_batches(self) -> Iterator[list[Batch]]:
        """This worker's micro-batches of each step."""
        for step in range(self.order.steps):
            rows = [self._reader.row(a) for a in self.order.slice(step, self._rank, world_size())]
            yield [
                self._collate(rows[start : start + self._micro_batch])
                for start in range(0, len(rows), self._micro_batch)
            ]

    def step(self, parts: list[Batch], rate: float) -> None:
        """One optimiser step on this worker's micro-batches of a global batch."""
        # All workers divide by the same counts. A mean per micro-batch would weight rows by the size of their batch.
        counts = torch.tensor(
            [sum(p.target_tokens for p in parts), sum(p.guided_rows for p in parts)],
            dtype=exact_dtype(self.device),
            device=self.device,
        )
        tokens, guided = all_reduce(counts).clamp_min(1).float().unbind()
        self.optimizer.zero_grad(set_to_none=True)
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            wait = isinstance(self.parallel, DistributedDataParallel) and not last
            with self.parallel.no_sync() if wait else nullcontext():  # type: ignore[operator]
                self._backward(part, tokens, guided)
        norm = nn.utils.clip_grad_norm_(self.trainable, self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.gradient_norm = norm.detach()

    def _backward(self, part: Batch, tokens: torch.Tensor, guided: torch.Tensor) -> None:
        """Forward and backward of one micro-batch; its losses are shares of the global batch's means."""
        dtype = PRECISIONS[self.config.precision]
        batch = part.to(self.device)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            out = self.parallel(**batch.inputs(), return_logits=False, use_cache=False)
        loss = out.lm_loss_sum / tokens
        if out.guidance_loss_sum is not None:
            weight = self.model.config.guidance_weight
            loss = loss + weight * self.model.reduce_guidance(out.guidance_loss_sum, guided)
        # DDP averages gradients over the workers, but these losses are to be summed.
        (loss * world_size()).backward()
        self.log.window.add(
            target_tokens=part.target_tokens,
            guided_rows=part.guided_rows,
            tokens=part.tokens,
            images=part.images,
        )
        self.log.window.add_tensors(
            lm_loss_sum=out.lm_loss_sum,
            counted_rows=out.guided_rows,
            guidance_loss_sum=out.guidance_loss_sum,
            attention_mass_sum=out.attention_mass_sum,
            padding_mass_sum=out.padding_mass_sum,
        )
        self.notes.update(part.notes)

    def total_notes(self) -> dict[str, int]:
        """Masks that were left out of the guidance, by reason, over all workers. Every worker must call this."""
        everyone: list[dict[str, int]] = [dict(self.notes)]
        if world_size() > 1:
            everyone = [{} for _ in range(world_size())]
            dist.all_gather_object(everyone, dict(self.notes))
        total: Counter[str] = Counter()
        for notes in everyone:
            total.update(notes)
        return dict(sorted(total.items()))
