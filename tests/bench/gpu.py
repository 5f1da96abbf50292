"""Training steps of the paper's model on one GPU: MFU, tokens/s and memory of stages 1, 3 and 4.

Run: `python -m tests.bench gpu`. It needs no store and takes less than 4 minutes on a GPU of 80 GB. The weights are
random; batch 16, 768 px, texts of realistic lengths, with and without torch.compile. In the same call transformers'
`Trainer` trains the same model on the same batches. `--tiny` runs the same code on a miniature, also without a GPU.

Prints lines `metric value`. Returns 1 if MFU in stage 4, the better of both ways, is below GOAL.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, cast

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, Trainer, TrainingArguments

from model.agevlm.configuration_agevlm import AgeVlmConfig, AgeVlmVisionConfig
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.stage_table import STAGES, StageRow
from model.stages import apply_stage
from pipeline.training.config import StageConfig
from pipeline.training.data.batches import IGNORE, Batch
from pipeline.training.data.pictures import Normaliser
from pipeline.training.execution import Execution
from pipeline.training.flops import Sizes, Work, flops_per_step, mfu
from pipeline.training.loop import StageTrainer

GOAL: Final = 0.45
LONGEST = 512
WARM_UPS, ROUNDS = 2, 3
"""Rounds over all batches. Each batch has its own width, for which kernels are chosen or compiled at the first time."""
RATE: Final = 1e-5


def tiny_config() -> AgeVlmConfig:
    """A miniature with all parts of the paper's model."""
    text = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    vision = AgeVlmVisionConfig(
        architecture="convnext_atto", model_args={"dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}, image_size=64,
        hidden_size=32,
    )  # fmt: skip
    return AgeVlmConfig(text_config=text, vision_config=vision, cross_attention_layers=[1, 3])


def make_batch(config: AgeVlmConfig, rows: int, guided_rows: int, seed: int, longest: int) -> Batch:
    """Random rows in pinned memory: log-normal lengths, median a third of `longest`; 60 % of the tokens are targets."""
    generator = torch.Generator().manual_seed(seed)
    vision, cells = config.vision_config, config.vision_config.num_cells
    lengths = torch.exp(torch.randn(rows, generator=generator) * 0.25) * (longest / 3)
    lengths = lengths.round().long().clamp(8, longest)
    width = int(lengths.max())
    mask = torch.arange(width)[None] < lengths[:, None]
    ids = torch.randint(10, config.text_config.vocab_size, (rows, width), generator=generator)
    target = mask & (torch.arange(width)[None] >= (lengths * 0.4).long()[:, None])
    cell_mask = torch.ones(rows, cells, dtype=torch.bool)
    cell_mask[:, : cells // 4] = False  # a quarter is padding, as in photographs
    guided = torch.arange(rows) < guided_rows
    query = (torch.arange(width)[None] < (lengths * 0.3).long()[:, None]) & guided[:, None]
    marked = torch.zeros_like(cell_mask)
    marked[:, cells // 2 : cells // 2 + max(1, cells // 10)] = True
    pixels = torch.randint(0, 256, (rows, vision.image_size, vision.image_size, 3), generator=generator)
    batch = Batch(
        input_ids=ids,
        attention_mask=mask.long(),
        labels=torch.where(target, ids, IGNORE),
        pixels=pixels.to(torch.uint8),
        normalise=Normaliser((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        cell_mask=cell_mask,
        has_image=torch.ones(rows, dtype=torch.bool),
        guidance_mask=marked & guided[:, None] if guided_rows else None,
        query_mask=query if guided_rows else None,
        guided=guided if guided_rows else None,
        target_tokens=int(target[:, 1:].sum()),
        guided_rows=guided_rows,
        images=rows,
        tokens=int(mask.sum()),
        notes=Counter(),
    )
    return batch.pin_memory() if torch.cuda.is_available() else batch


def work_of(batch: Batch) -> Work:
    """The work in a batch; padding does not count."""
    lengths = batch.attention_mask.sum(-1)
    query = 0 if batch.query_mask is None else int(batch.query_mask.sum())
    return Work(len(lengths), batch.images, batch.tokens, batch.target_tokens, query, attended=int((lengths**2).sum()))


class NoSamples:
    """Stands for a pack: the batches are in memory."""

    class order:
        steps = 1000

    reader = None


def model_of(config: AgeVlmConfig, row: StageRow, device: torch.device) -> AgeVlmForConditionalGeneration:
    """A model with random weights, made on the device, with the row's trainable parameters."""
    torch.manual_seed(0)
    config.text_config._attn_implementation = "sdpa"
    with device:
        model = AgeVlmForConditionalGeneration(config)
    apply_stage(model, row)
    return model.train()


def wait(device: torch.device) -> None:
    """Let the device finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(
    name: str, config: AgeVlmConfig, row: StageRow, batches: list[Batch], device: torch.device, settings: Any
) -> dict[str, float]:
    """Seconds of the median step, tokens/s, MFU and peak memory of our loop."""
    release(device)
    execution, precision = settings
    model = model_of(config, row, device)
    stage = StageConfig(precision=precision, global_batch=len(batches[0].input_ids))
    trainer = StageTrainer(model, row, stage, execution, cast(Any, NoSamples), cast(Any, None), 1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = timed(lambda number: trainer.step([batches[number % len(batches)]], RATE), len(batches), device)
    figures = summary(config, row, batches, seconds, device)
    for metric, value in figures.items():
        print(f"gpu.{name}.{metric} {value:.4g}", flush=True)
    return figures


def timed(step: Any, count: int, device: torch.device) -> list[float]:
    """Seconds of each step of ROUNDS rounds over `count` batches, after the rounds that warm up."""
    for number in range(WARM_UPS * count):
        step(number)
    wait(device)
    seconds = []
    for number in range(ROUNDS * count):
        start = time.perf_counter()
        step(number)
        wait(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def summary(
    config: AgeVlmConfig, row: StageRow, batches: list[Batch], seconds: list[float], device: torch.device
) -> dict[str, float]:
    """The figures of one way to train."""
    total = sum(seconds) / ROUNDS
    flops = sum(flops_per_step(Sizes.of(config), row, work_of(batch)).model for batch in batches)
    figures = {
        "seconds": statistics.median(seconds),
        "tokens_per_second": sum(batch.tokens for batch in batches) / total,
        "tflops_per_second": flops / total / 1e12,
    }
    if device.type == "cuda":
        share = mfu(flops, total, torch.cuda.get_device_name(device), 1)
        figures |= {"memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
        figures |= {} if share is None else {"mfu": share}
    return figures


def release(device: torch.device) -> None:
    """Free what the last way to train has left."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class _Numbers(Dataset[int]):
    """The numbers of the rows: the collator takes whole batches, which are in memory already."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> int:
        return index


def measured_trainer(
    config: AgeVlmConfig, row: StageRow, batches: list[Batch], device: torch.device
) -> dict[str, float]:
    """The same figures of transformers' Trainer in bf16, on the same batches; it keeps all logits."""
    release(device)
    model = model_of(config, row, device)
    seconds: list[float] = []

    class Timed(Trainer):  # type: ignore[misc]
        def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
            wait(device)
            seconds.append(time.perf_counter())
            loss: torch.Tensor = super().training_step(*arguments, **options)
            return loss

    size, first = len(batches[0].input_ids), WARM_UPS * len(batches)
    steps = first + ROUNDS * len(batches) + 1
    made = [batch.inputs() for batch in batches]  # normalised once, so that no step waits for it
    if device.type == "cuda":
        made = [{name: value.pin_memory() for name, value in inputs.items()} for inputs in made]

    def collate(numbers: list[int]) -> dict[str, torch.Tensor]:
        return dict(made[numbers[0] // size % len(made)])

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=size,
            max_steps=steps,
            learning_rate=RATE,
            bf16=True,
            optim="adamw_torch_fused",
            logging_steps=10**6,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=device.type != "cuda",
            train_sampling_strategy="sequential",
        )
        Timed(
            model=model,
            args=arguments,
            train_dataset=_Numbers(size * steps),
            data_collator=collate,
        ).train()
    each = [end - start for start, end in zip(seconds[first:-1], seconds[first + 1 :], strict=True)]
    figures = summary(config, row, batches, each, device)
    for metric, value in figures.items():
        print(f"gpu.{row.name}.trainer.{metric} {value:.4g}", flush=True)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; returns 1 if the goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a miniature model, to try the script without a GPU")
    parser.add_argument("--rows", type=int, default=16, help="samples of a step")
    parser.add_argument("--steps", type=int, default=6, help="batches; each is timed in several rounds")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "bf16_parameters"])
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing, if memory is short")
    parser.add_argument("--no-compile", action="store_true")
    said = parser.parse_args(arguments)
    if not said.tiny and not torch.cuda.is_available():
        print("no GPU here; `python -m tests.bench gpu --tiny` tries the code without one")
        return 0
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    config, longest = (tiny_config(), 24) if said.tiny else (AgeVlmConfig.paper(), LONGEST)
    plain = [make_batch(config, said.rows, 0, seed, longest) for seed in range(said.steps)]
    # About 3 % of the rows are guided: one row in two steps of 16; here one in each step.
    guided = [make_batch(config, said.rows, 1, seed, longest) for seed in range(said.steps)]
    print(f"gpu.device {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu'}")
    print(f"gpu.padding {1 - sum(b.tokens for b in plain) / sum(b.input_ids.numel() for b in plain):.4g}")
    found: dict[str, dict[str, float]] = {}
    for compiled in (False,) if said.no_compile else (False, True):
        execution = Execution(compile=compiled, activation_checkpointing=said.checkpointing)
        way, settings = "compiled" if compiled else "eager", (execution, said.precision)
        for stage in ("stage4", "stage3", "stage1"):
            batches = guided if STAGES[stage].guidance_loss else plain
            name = f"{stage}.{way}"
            found[name] = measured(name, config, STAGES[stage], batches, device, settings)
        unguided = STAGES["stage3_baseline"]
        name = f"{unguided.name}.{way}"
        found[name] = measured(name, config, unguided, plain, device, settings)
        ratio = found[f"stage3.{way}"]["seconds"] / found[name]["seconds"]
        print(f"gpu.guided_over_unguided.{way} {ratio:.4g}", flush=True)
    theirs = measured_trainer(config, STAGES["stage4"], plain, device)
    best = max((found[name] for name in found if name.startswith("stage4.")), key=lambda f: f["tflops_per_second"])
    print(f"gpu.stage4.over_trainer {best['tokens_per_second'] / theirs['tokens_per_second']:.4g}")
    if "mfu" not in best:
        print("no MFU: the peak of this device is not known")
        return 0
    print(f"gpu.stage4.mfu {best['mfu']:.4g}")
    return 0 if said.tiny or best["mfu"] >= GOAL else 1
