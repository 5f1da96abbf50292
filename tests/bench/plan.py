"""The costs that `agevlm plan` predicts against measurement on this machine: memory of a step, and time of a stage.

Run: `python -m tests.bench plan`. Lines `plan.memory_error NAME value` and `plan.error NAME value`, both predicted over
measured, less one. Memory is the peak of all tensors in torch's profiler. Time is that of the stage's trainer on a
small pack; its prediction is from calibrations (pipeline.student.calibrate) between its steps.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig

from model.agevlm.configuration_agevlm import AgeVlmConfig, AgeVlmVisionConfig
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.processing_agevlm import AgeVlmProcessor
from model.stage_table import stage_row
from model.stages import apply_stage, parameter_groups
from pipeline.compute.resources import Resources
from pipeline.plan.costs.activations import MicroBatch, Precision
from pipeline.plan.costs.memory import Sharing, memory
from pipeline.plan.costs.student import Student
from pipeline.plan.fingerprints import weights_path
from pipeline.student.calibrate import row_speed
from pipeline.training.config import StageConfig, StudentConfig
from pipeline.training.data.batches import Collator
from pipeline.training.data.index import PackIndex
from pipeline.training.data.pack_files import PackFiles
from pipeline.training.data.samples import open_samples
from pipeline.training.execution import Execution
from pipeline.training.flops import Sizes, Work, flops_per_step
from pipeline.training.loop import StageTrainer
from pipeline.training.student import join_backbones
from tests.pipeline.training.fixtures_tiny_training import make_pack

MOST_MEMORY, MOST_TIME = 0.15, 0.20
ROWS, STEPS = 160, 9
Made = tuple[AgeVlmForConditionalGeneration, AgeVlmProcessor]


def miniature() -> Made:
    """The miniature student."""
    places = (str(weights_path("text", "miniature")), str(weights_path("vision", "miniature")))
    return join_backbones(StudentConfig(cross_attention_layers=(1, 3, 5)), *places, seed=0)


def larger() -> Made:
    """A student of about 15 million parameters with random weights, and the miniature tokenizer."""
    text = LlamaConfig(
        vocab_size=8000, hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=5,
    )  # fmt: skip
    vision = AgeVlmVisionConfig(architecture="convnext_pico", image_size=224, stride=32, hidden_size=512)
    config = AgeVlmConfig(text_config=text, vision_config=vision, cross_attention_layers=[1, 5, 9])
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights_path("text", "miniature"))
    return AgeVlmForConditionalGeneration(config), AgeVlmProcessor.from_backbones(tokenizer, vision, "mean")


def student_of_model(model: AgeVlmForConditionalGeneration) -> Student:
    """The same model for the cost formulas."""
    return Student(Sizes.of(model.config), model.config.text_config.tie_word_embeddings, True, False, {})


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes of tensors that a call adds at one moment."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def memory_error(
    model: AgeVlmForConditionalGeneration, row: str, precision: Precision, checkpointing: bool, rows: int, length: int
) -> float:
    """Predicted over measured peak of one optimiser step, less one."""
    model.train()
    apply_stage(model, row)
    if checkpointing:
        encoder = [block for stage in model.model.vision_tower.trunk.stages for block in stage.blocks]
        for block in (*encoder, *model.model.language_model.layers):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    model.model.vision_tower.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-4, fused=True)
    vision = model.config.vision_config
    ids = torch.randint(6, 400, (rows, length))
    mask, cells = torch.ones_like(ids), torch.ones(rows, vision.num_cells, dtype=torch.bool)
    mask[0, -2:], cells[0, :2] = 0, False
    labels = ids.clone()
    labels[:, : length // 2] = -100
    pixels = torch.randn(rows, 3, vision.image_size, vision.image_size)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = model(
                input_ids=ids, attention_mask=mask, labels=labels, pixel_values=pixels, cell_mask=cells,
                return_logits=False, use_cache=False,
            ).loss  # fmt: skip
        loss.backward()
        optimizer.step()

    step()  # the moments come into being
    optimizer.zero_grad(set_to_none=True)
    added = peak_bytes(step)
    moments = [v for state in optimizer.state.values() for v in state.values() if v.dim()]
    before = sum(t.numel() * t.element_size() for t in (*model.parameters(), *moments, pixels))
    batch = MicroBatch(rows, rows, length, int((labels[:, 1:] != -100).sum()))
    sharing = Sharing(checkpointing=checkpointing)
    found = memory(student_of_model(model), stage_row(row), batch, precision, sharing)
    return found.bytes / (before + added) - 1


@dataclass(frozen=True)
class Case:
    """A stage to be timed."""

    name: str
    make: Callable[[], Made]
    row: str
    global_batch: int
    micro_batch: int


CASES = (
    Case("miniature-stage1", miniature, "stage1", 16, 16),
    Case("miniature-stage4-accumulated", miniature, "stage4", 32, 8),
    Case("larger-stage4", larger, "stage4", 8, 8),
)


def time_error(case: Case, folder: Path, seconds: float) -> tuple[float, float, float]:
    """Predicted over measured time of a stage's steps, less one; and both times of a step in seconds."""
    model, processor = case.make()
    make_pack(folder, processor, ROWS, shard_rows=64)
    row = stage_row(case.row)
    apply_stage(model, row)
    config = StageConfig(global_batch=case.global_batch, held_out=0, precision="fp32", epochs=8, max_steps=STEPS)
    samples = open_samples(PackIndex.read(PackFiles.local(folder)), row, config, seed=0)
    collate = Collator(processor.image_processor, processor.tokenizer.pad_token_id)
    lengths = [int(n) for shard in range(len(samples.index)) for n in samples.index.lengths(shard)]
    tokens = statistics.mean(lengths)
    batch = collate([samples.reader.row(address) for address in samples.order.batch(0)])
    targets = batch.target_tokens / case.global_batch
    resources = Resources(micro_batch=case.micro_batch)
    student = student_of_model(model)

    # A calibration between any two steps, on a copy of the model: a busy machine slows both alike.
    other = copy.deepcopy(model).train()
    trainer = StageTrainer(model, row, config, Execution(log_every=10**6), samples, collate, case.micro_batch)
    speeds: list[float] = []
    times: list[float] = []
    begun = time.perf_counter()

    def after_step(done: int, metrics: object) -> None:
        nonlocal begun
        times.append(time.perf_counter() - begun)
        speeds.append(row_speed(other, student, case.row, config, resources, tokens, targets, seconds))
        begun = time.perf_counter()

    trainer.run(after_step)
    measured = statistics.median(times[1:])
    work = Work(
        case.global_batch, case.global_batch, round(case.global_batch * tokens), round(case.global_batch * targets)
    )
    predicted = flops_per_step(student.sizes, row, work).hardware / statistics.median(speeds)
    return predicted / measured - 1, predicted, measured


def main(arguments: Sequence[str]) -> int:
    """Print the errors; returns 1 if one is over its bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench plan", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="time of each calibration (default 0.5)")
    parser.add_argument("--only", choices=["memory", "time"], help="one half of the benchmark")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    said = parser.parse_args(arguments)
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(said.threads)
    worst_memory = worst_time = 0.0
    sizes: dict[str, tuple[Callable[[], Made], int, int]] = {
        "miniature": (miniature, 16, 83),
        "larger": (larger, 4, 96),
    }
    for name, (make, rows, length) in sizes.items() if said.only != "time" else ():
        for row in ("stage1", "stage2", "stage4"):
            for checkpointing in (False, True):
                ways: tuple[Precision, ...] = ("fp32", "bf16")
                for precision in ways if name == "miniature" else ways[:1]:
                    error = memory_error(make()[0], row, precision, checkpointing, rows, length)
                    label = f"{name}-{row}-{precision}{'-checkpointed' if checkpointing else ''}"
                    print(f"plan.memory_error {label} {error:+.3f}", flush=True)
                    worst_memory = max(worst_memory, abs(error))
    for case in CASES if said.only != "memory" else ():
        with tempfile.TemporaryDirectory() as folder:
            error, predicted, measured = time_error(case, Path(folder), said.seconds)
        print(f"plan.error {case.name} {error:+.3f}   ({predicted:.3f} s a step, measured {measured:.3f})", flush=True)
        worst_time = max(worst_time, abs(error))
    print(f"plan.memory_error_worst {worst_memory:.3f}\nplan.error_worst {worst_time:.3f}")
    return int(worst_memory > MOST_MEMORY or worst_time > MOST_TIME)
