"""The training loop of one stage: the same on one process and on many, with any number of micro-batches, from any step.

Per global batch: L = L_LM + lambda L_g, where L_LM is the mean over the batch's target tokens and L_g the mean over its
guided rows (paper section 3.2.2; about 3 % of the rows are guided). Both counts are summed over all workers and
micro-batches before any loss is scaled, so that dividing the batch in another way changes only rounding.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from model.agevlm.inputs import to_device
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.outputs import AgeVlmOutput
from model.stage_table import StageRow
from model.stages import parameter_groups
from pipeline.training.config import StageConfig
from pipeline.training.data.batches import Batch, Collator
from pipeline.training.data.loader import loaded
from pipeline.training.data.pack_reader import PackRow
from pipeline.training.data.samples import Samples
from pipeline.training.execution import Execution
from pipeline.training.held_out import HeldOut
from pipeline.training.parallel import autocast, call, clip_gradients, gradient_sync, parallelize, plain_layout
from pipeline.training.schedules import guidance_factor, rate_factor
from pipeline.training.watch.metrics import Log, Window, all_reduce, exact_dtype, world_size
from pipeline.training.watch.non_finite import NonFiniteGuard, RowCheck, finite_seed, non_finite_error, norm_of
from pipeline.training.watch.work import Utilisation, count


class StageTrainer:
    """Trains a model on this worker's slices of the sample order.

    Args:
        model: on its device, in fp32; parameters that require a gradient are trained.
        row: row of the stage table that was applied to the model.
        micro_batch: samples of one forward pass.
        seed: seed of random numbers in the model.
        rank: this worker's number; the number of workers comes from torch.distributed.
        held_out: this worker's part of the held-out rows; None if they have no loss.
    """

    def __init__(
        self,
        model: AgeVlmForConditionalGeneration,
        row: StageRow,
        config: StageConfig,
        execution: Execution,
        samples: Samples,
        collate: Collator,
        micro_batch: int,
        seed: int = 0,
        rank: int = 0,
        held_out: HeldOut | None = None,
    ) -> None:
        self._held_out = held_out
        self.model, self.row, self.config, self.execution = model, row, config, execution
        self.samples, self.order, self._collate = samples, samples.order, collate
        self._micro_batch, self._seed, self._rank = micro_batch, seed, rank
        self.done = 0
        """Optimiser steps done; `run` goes on from here."""
        self.device = model.device
        self.model.train()
        self.parallel = parallelize(model, config, execution)
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay), lr=0.0, betas=(config.beta1, config.beta2), fused=True
        )
        utilisation = Utilisation(model.config, row, self.device, world_size())
        layers, reduction = model.config.num_cross_attention_layers, model.config.guidance_reduction
        self.log = Log(layers, self.device, reduction, utilisation)
        self.notes: Counter[str] = Counter()
        self.gradient_norm = torch.zeros((), device=self.device)
        self.guard = NonFiniteGuard(self.device)
        if row.guidance_loss:
            # The configuration and the card of the trained model say the weight that its last step had.
            model.config.guidance_weight = self.guidance_weight(self.order.steps - 1)

    def run(self, report: Callable[[int, dict[str, Any] | None], None]) -> None:
        """Train to the last step.

        report: called after each step with the number of steps done, and with a row of metrics every `log_every` steps.
        """
        batches = self.micro_batches()
        try:
            while self.done < self.order.steps:
                waiting = time.monotonic()
                parts = next(batches)
                self.log.window.add(wait_seconds=time.monotonic() - waiting)
                rate = self.config.learning_rate * rate_factor(self.done, self.order.steps, self.config.warmup_ratio)
                self.step(parts, rate)
                self.done += 1
                row = None
                if self.done % self.execution.log_every == 0 or self.done == self.order.steps:
                    losses = self.held_out_losses() if self._held_out_is_due() else (None, None)
                    weight = self.guidance_weight(self.done - 1) if self.row.guidance_loss else None
                    seen = self.order.seen(self.done)
                    row = self.log.row(self.done, seen, rate, self.gradient_norm, losses, weight)
                    self._require_finite()  # before the report: it may write a checkpoint
                report(self.done, row)
        finally:
            batches.close()  # type: ignore[attr-defined]
        plain_layout(self.model)

    def micro_batches(self) -> Iterator[list[Batch]]:
        """This worker's micro-batches of each step that is still to be done."""
        return loaded(
            self.order,
            self.samples.reader,
            self._collate,
            self._rank,
            world_size(),
            self._micro_batch,
            self.done,
            self.execution.loader_processes or 0,
            self.execution.read_ahead,
            self.device,
        )

    def step(self, parts: list[Batch], rate: float) -> None:
        """One optimiser step on this worker's micro-batches of a global batch."""
        # Random numbers are a function of the step, so a checkpoint has no state of a generator, and a run that goes on
        # with another number of workers has a state too.
        torch.manual_seed(int(np.random.default_rng([self._seed, self.done, self._rank]).integers(2**63)))
        # All workers divide by the same counts. A mean per micro-batch would weight rows by the size of their batch.
        counts = torch.tensor(
            [sum(p.target_tokens for p in parts), sum(p.guided_rows for p in parts)],
            dtype=exact_dtype(self.device),
        )
        tokens, guided = all_reduce(to_device(counts, self.device)).clamp_min(1).float().unbind()
        self.optimizer.zero_grad(set_to_none=True)
        for index, part in enumerate(parts):
            with gradient_sync(self.parallel, index == len(parts) - 1):
                self._backward(part, tokens, guided)
        norm = clip_gradients(self.trainable, self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.guard.before_update(self.optimizer, norm, self.done)
        self.optimizer.step()
        self.gradient_norm = norm

    def forward(self, part: Batch) -> AgeVlmOutput:
        """The model's output for a micro-batch. Under FSDP2 all workers must call this equally often."""
        with autocast(self.config, self.device):
            out: AgeVlmOutput = call(self.parallel, part.to(self.device).inputs(), return_logits=False, use_cache=False)
        return out

    def _backward(self, part: Batch, tokens: torch.Tensor, guided: torch.Tensor) -> None:
        """Forward and backward of one micro-batch; its losses are shares of the global batch's means."""
        out = self.forward(part)
        assert out.lm_loss_sum is not None
        loss: torch.Tensor = out.lm_loss_sum / tokens
        if out.guidance_loss_sum is not None:
            loss = loss + self.guidance_weight(self.done) * self.model.reduce_guidance(out.guidance_loss_sum, guided)
        torch.autograd.backward(loss, finite_seed(loss))
        self.log.window.add(**count(part))
        self.log.window.add_tensors(
            lm_loss_sum=out.lm_loss_sum,
            counted_rows=out.guided_rows,
            guidance_loss_sum=out.guidance_loss_sum,
            attention_mass_sum=out.attention_mass_sum,
            padding_mass_sum=out.padding_mass_sum,
        )
        self.notes.update(part.notes)

    def held_out_losses(self) -> tuple[float | None, float | None]:
        """L_LM and L_g of the held-out rows, over all workers; None without any. Every worker must call this."""
        if self._held_out is None:
            return None, None
        started = time.monotonic()
        losses = self._held_out.losses(self.model, self.forward)
        self.log.pause(time.monotonic() - started)
        return losses

    def _held_out_is_due(self) -> bool:
        """True after the last step, and at the first row of metrics after every `held_out_every` steps."""
        every, rows = self.execution.held_out_every, self.execution.log_every
        if self.done == self.order.steps:
            return True
        return every is not None and self.done // every > (self.done - 1) // rows * rows // every

    def _require_finite(self) -> None:
        """Raise StepError, with the samples that cause it, if a step since the last call was not finite."""
        step = self.guard.first_bad_step()
        if step is not None:
            rows = [self.samples.reader.row(address) for address in self.order.batch(step)]
            raise non_finite_error(self.row.name, step, self.order.steps, self.model, rows, self._check_row)

    def _check_row(self, row: PackRow) -> RowCheck:
        """Losses and gradient norm of one row alone. Every worker must run the same one."""
        part, one = self._collate([row]), torch.ones((), device=self.device)
        tokens, guided = max(part.target_tokens, 1), max(part.guided_rows, 1)
        self.optimizer.zero_grad(set_to_none=True)
        self.log.window = Window(self.model.config.num_cross_attention_layers, self.device)
        with gradient_sync(self.parallel, True):
            self._backward(part, tokens * one, guided * one)
        sums = {name: float(value.sum()) for name, value in self.log.window.tensors.items()}
        # The gradient is the sum over the workers, which all ran this row.
        norm = float(norm_of(self.trainable)) / world_size()
        layers = self.model.config.num_cross_attention_layers
        guidance = sums["guidance_loss_sum"] / layers if part.guided_rows else None
        return RowCheck(row.sample_id, sums["lm_loss_sum"] / tokens, guidance, norm)

    def guidance_weight(self, step: int) -> float:
        """Lambda at a step (0 <= step < steps): a function of the step, so that a run that goes on has the same."""
        points = self.config.guidance_schedule
        return self.config.guidance_weight * guidance_factor(step, self.order.steps, points)

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
