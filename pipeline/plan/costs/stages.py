"""The costs of a training stage: steps, samples, tokens, FLOPs, memory, time and storage."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.stage_table import StageRow, stage_row
from pipeline.plan.costs.activations import MicroBatch
from pipeline.plan.costs.amounts import Amount
from pipeline.plan.costs.calibration import Calibration
from pipeline.plan.costs.cluster import Cluster
from pipeline.plan.costs.figures import Figure, quantity
from pipeline.plan.costs.memory import Memory, Sharing, memory
from pipeline.plan.costs.student import Student
from pipeline.plan.planner import PlannedStep
from pipeline.training.config import StageConfig
from pipeline.training.data.samples import MOST_HELD_OUT
from pipeline.training.execution import Execution
from pipeline.training.flops import Work, flops_per_step

GPU_MFU, CPU_MFU = 0.2, 0.4
"""Share of the peak that training reaches without a calibration: on a GPU as measured on an H200, in bf16 without
torch.compile (docs/cost-model.md); on a CPU assumed."""
SLOW_FP32 = 16
"""Dense bf16 operations per fp32 operation on a GPU without TF32, as on an A100 (312 and 19.5 TFLOP/s)."""
Figures = list[Figure]


@dataclass(frozen=True)
class StageCost:
    """The figures of a stage; `warnings` say what does not fit, with the remedy."""

    figures: Figures
    warnings: list[str]
    memory: Memory | None


def stage_cost(
    step: PlannedStep,
    student: Student,
    amount: Amount,
    max_tokens: int,
    guided: int,
    on: Cluster,
    calibration: Calibration | None,
) -> StageCost:
    """The costs of a stage.

    Args:
        amount: of its pack.
        max_tokens: of a row of the pack.
        guided: queries whose masks guide it; 0 without a guidance loss.
    """
    config = StageConfig.model_validate(step.spec.params["config"])
    execution, row = step.execution or Execution(), stage_row(str(step.spec.params["row"]))
    workers = min(step.resources.workers, on.devices) if on.gpu else step.resources.workers
    batch = _micro_batch(step, config, amount, max_tokens, workers)
    sharing = _sharing(config, execution, workers, batch, on)
    needs = memory(student, row, batch, config.precision, sharing)
    figures: Figures = []
    count, how = steps_of(config, row, amount)
    if count is not None:
        samples = count * config.global_batch
        figures += [
            Figure("samples", samples, "samples", how),
            Figure("tokens", samples * amount.tokens, "tokens", f"{samples:,} samples x {amount.tokens:.1f} tokens"),
        ]
        work = _work(config, row, amount, guided)
        done = flops_per_step(student.sizes, row, work, execution.activation_checkpointing)
        again = f" (of which {done.hardware - done.model:.3g} computed again)" if done.hardware > done.model else ""
        total = done.hardware * count
        parts = ", ".join(
            f"{name} {quantity(p.forward + p.backward + p.recompute, 'FLOP')}" for name, p in done.parts.items()
        )
        figures.append(
            Figure("FLOPs", total, "FLOP", f"{count:,} steps x {quantity(done.hardware, 'FLOP')}{again}: {parts}")
        )
        figures.append(_time(step, row.name, config, total, workers, on, calibration))
    figures += needs.parts
    figures.append(_storage(student, row, execution))
    return StageCost(figures, _warnings(step, needs, on, sharing, config), needs)


def steps_of(config: StageConfig, row: StageRow, amount: Amount) -> tuple[int | None, str]:
    """Optimiser steps of a stage and their arithmetic; None if the number of rows is not known."""
    rows = amount.records if row.language_model else amount.images
    if rows is None or amount.records is None:
        return None, amount.how
    held_out = min(config.held_out, amount.records // MOST_HELD_OUT)
    seen = config.epochs * max(0, rows - held_out)
    available = seen // config.global_batch if config.tail == "drop" else -(-seen // config.global_batch)
    steps = available if config.max_steps is None else min(available, config.max_steps)
    what = "rows" if row.language_model else "rows with an image"
    limit = "" if config.max_steps is None else f", at most {config.max_steps:,} steps"
    return steps, (
        f"{config.epochs} epochs x ({rows:,} {what} - {held_out:,} held out) / {config.global_batch}{limit} = "
        f"{steps:,} steps; {amount.how}"
    )


def _work(config: StageConfig, row: StageRow, amount: Amount, guided: int) -> Work:
    """The data of one step, over all workers."""
    rows = config.global_batch
    share = (amount.images or 0) / max(1, amount.records or 1) if row.language_model else 1.0
    asked = rows * min(1.0, guided / max(1, amount.images or 1)) if row.guidance_loss else 0.0
    return Work(
        rows=rows,
        images=round(rows * share),
        tokens=round(rows * amount.tokens),
        target_tokens=round(rows * amount.targets),
        query_tokens=round(asked * amount.targets),
    )


def _micro_batch(step: PlannedStep, config: StageConfig, amount: Amount, max_tokens: int, workers: int) -> MicroBatch:
    """The micro-batch that decides if a stage fits: all rows have the greatest length, as similar rows share one."""
    rows = min(step.resources.micro_batch, -(-config.global_batch // workers))
    targets = amount.targets / amount.tokens if amount.tokens else 1.0
    return MicroBatch(rows, rows, max_tokens, round(rows * max_tokens * targets))


def _sharing(config: StageConfig, execution: Execution, workers: int, batch: MicroBatch, on: Cluster) -> Sharing:
    return Sharing(
        workers=workers,
        sharded=execution.parallel == "fsdp" or config.precision == "bf16_parameters",
        checkpointing=execution.activation_checkpointing,
        accumulates=-(-config.global_batch // workers) > batch.rows,
        gpu=on.gpu,
    )


def _time(
    step: PlannedStep,
    row: str,
    config: StageConfig,
    flops: float,
    workers: int,
    on: Cluster,
    calibration: Calibration | None,
) -> Figure:
    if calibration is not None and row in calibration.flops:
        speed, start = calibration.flops[row], calibration.start_seconds
        how = (
            f"{start:.0f} s start + {quantity(flops, 'FLOP')} / ({workers} workers x {quantity(speed, 'FLOP/s')}, "
            f"measured {calibration.measured[:10]} on {calibration.machine})"
        )
        return Figure("time", start + flops / (workers * speed), "s", how)
    lanes = workers if on.gpu else workers * step.resources.threads
    peak = on.peak / (SLOW_FP32 if on.gpu and config.precision == "fp32" else 1)
    what, share, source = (
        ("GPUs", GPU_MFU, "as measured on an H200")
        if on.gpu
        else ("threads", CPU_MFU, "an assumption that 'agevlm calibrate' replaces")
    )
    how = f"{quantity(flops, 'FLOP')} / ({lanes} {what} x {quantity(peak, 'FLOP/s')} peak x {share:.0%}, {source})"
    return Figure("time", flops / (lanes * peak * share), "s", how)


def _storage(student: Student, row: StageRow, execution: Execution) -> Figure:
    trained = sum(student.trainable(row).values())
    model, moments, checkpoint = 4 * student.total, 8 * trained, 12 * trained
    how = (
        f"the model in fp32 {quantity(model, 'bytes')} + AdamW's moments {quantity(moments, 'bytes')}; while it trains "
        f"also {execution.keep_checkpoints} checkpoints of trained fp32 weights and moments "
        f"({quantity(checkpoint, 'bytes')} each)"
    )
    return Figure("storage", model + moments + execution.keep_checkpoints * checkpoint, "bytes", how)


def _warnings(step: PlannedStep, needs: Memory, on: Cluster, sharing: Sharing, config: StageConfig) -> list[str]:
    room = on.usable
    if needs.bytes <= room:
        return []
    remedies: Sequence[str] = [
        *([] if sharing.checkpointing else ["activation_checkpointing: true"]),
        *([] if sharing.sharded or sharing.workers == 1 else ["parallel: fsdp"]),
        *(["precision: bf16"] if config.precision == "fp32" and on.gpu else []),
        f"a micro_batch below {step.resources.micro_batch}",
    ]
    return [
        f"{step.key} needs {quantity(needs.bytes, 'bytes')} per worker, but a device has {quantity(room, 'bytes')} for "
        f"tensors; remedies: {', '.join(remedies)}"
    ]
