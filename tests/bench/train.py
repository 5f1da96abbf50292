"""Tokens per second of a stage as it is run, over those of a bare PyTorch loop on batches that are in memory.

Run: `python -m tests.bench train`. The stage is `python -m pipeline run`: a Ray Train worker with loader, metrics and
checkpoints. The bare loop is a process with the same student, threads and micro-batches, all made before it starts. The
student is a random Llama and ConvNeXt whose step takes 2 s or more on two cores. Both are run in turn, several times.

    train.efficiency  tokens per second of the stage / of the bare loop
    train.data_wait   share of the stage's time in which its worker waited for data
    train.step_s      seconds of a step of the bare loop

The time of a run is that of its steps after the first. So Ray's start does not count, but checkpoints do: there is one
in each run, as often as in a run with one each `--steps` steps.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.artifacts.store import ArtifactStore
from pipeline.compute.resources import Resources, usable_cpus
from pipeline.compute.threads import wait_briefly
from pipeline.plan.job import JobSpec
from pipeline.schemas import SPEED_FILE

LEAST_EFFICIENCY, MOST_DATA_WAIT, LEAST_STEP = 0.97, 0.01, 2.0
BATCH, MICRO, WIDTH, LAYERS = 16, 8, 512, 8


def make_weights(folder: Path) -> dict[str, str]:
    """A random Llama of about 25 million parameters and a ConvNeXt-Atto, as a recipe's weights."""
    import timm
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    from model.miniature.llama import build_tokenizer
    from model.miniature.training import IMAGE_MEAN, IMAGE_STD

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=1376,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    text, vision = folder / "text", folder / "vision"
    LlamaForCausalLM(config).save_pretrained(text)
    tokenizer.save_pretrained(text)
    vision.mkdir(parents=True)
    trunk = timm.create_model("convnext_atto", pretrained=False, num_classes=0)
    fields = {"architecture": "convnext_atto", "image_size": 128, "mean": list(IMAGE_MEAN), "std": list(IMAGE_STD)}
    (vision / "config.json").write_text(json.dumps(fields))
    weights = {name: value.contiguous() for name, value in trunk.state_dict().items() if not name.startswith("head.")}
    save_file(weights, vision / "model.safetensors")
    return {"text": str(text), "vision": str(vision)}


def make_job(folder: Path, steps: int) -> JobSpec:
    """Stage 4, in which everything is trained, of a random student, on a pack in which some rows have a mask."""
    from pipeline.training.config import StageConfig, StudentConfig
    from pipeline.training.execution import Execution
    from pipeline.training.student import join_backbones, save_student
    from tests.pipeline.steps.fixtures_store import Bench
    from tests.pipeline.training.fixtures_tiny_training import make_pack

    weights = make_weights(folder / "weights")
    student = StudentConfig(cross_attention_layers=(1, 4))
    model, processor = join_backbones(student, weights["text"], weights["vision"], 0)
    save_student(model, processor, folder / "parent" / "model")
    bench = Bench(folder, weights)
    guide = make_pack(folder / "pack", processor, BATCH * steps, shard_rows=64, guided_every=2)
    inputs = {
        "pack": bench.publish("pack", "pretrain", folder / "pack"),
        "parent": bench.publish("checkpoint", "stage3", folder / "parent"),
        "masks": bench.masks(guide),
    }
    config = StageConfig(global_batch=BATCH, precision="fp32", held_out=0, max_steps=steps)
    params: dict[str, Any] = {"row": "stage4_lm", "config": config.model_dump(mode="json"), "seed": 0}
    params |= {"student": None, "text": None, "vision": None}
    resources = Resources(cpus=usable_cpus(), threads=usable_cpus(), micro_batch=MICRO)
    job = bench.job("stage4", "checkpoint", params, inputs, resources)
    return job.model_copy(update={"execution": Execution(log_every=1, checkpoint_steps=max(1, steps // 2))})


def stage_run(folder: Path, job: JobSpec) -> tuple[float, float]:
    """Run the stage. Returns tokens per second and the share of waiting for data, both after the first step."""
    command = [sys.executable, "-m", "pipeline", "run", str(folder / "job.json")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    artifact = ArtifactStore(job.locations.root).require(job.ref)
    rows = pq.read_table(artifact.local() / SPEED_FILE).to_pylist()
    times = [row["seconds"] - before["seconds"] for before, row in itertools.pairwise(rows)]
    total = sum(times)
    tokens = sum(row["tokens_per_second"] * taken for row, taken in zip(rows[1:], times, strict=True))
    wait = sum(row["data_wait"] * taken for row, taken in zip(rows[1:], times, strict=True))
    shutil.rmtree(Path(artifact.path()).parent)  # so that the next run trains again
    return tokens / total, wait / total


def bare_run() -> tuple[float, float]:
    """The child: tokens per second of a bare loop over the same micro-batches, and seconds per step."""
    import torch

    from model.stage_table import stage_row
    from model.stages import apply_stage, parameter_groups
    from pipeline.masks.cell_builder import MaskParts, build_cells
    from pipeline.plan.parameters import StageParams
    from pipeline.training.data.batches import Collator
    from pipeline.training.data.guidance_cells import cell_settings
    from pipeline.training.data.index import PackIndex
    from pipeline.training.data.loader import micro_batches
    from pipeline.training.data.pack_files import PackFiles
    from pipeline.training.data.samples import open_samples
    from pipeline.training.student import load_student

    folder = Path(os.environ["AGEVLM_BENCH"])
    job = JobSpec.model_validate_json((folder / "job.json").read_text())
    torch.set_num_threads(job.resources.threads)
    store, params = ArtifactStore(job.locations.root), StageParams.model_validate(job.spec.params)
    row, config = stage_row(params.row), params.config
    parent = store.require(job.inputs["parent"]).local() / "model"
    model, processor = load_student(parent)
    apply_stage(model, row)
    model.train()
    model.model.vision_tower.to(memory_format=torch.channels_last)
    index = PackIndex.read(PackFiles.of(store.require(job.inputs["pack"])))
    samples = open_samples(index, row, config, params.seed)
    cells = folder / "cells"
    masks = MaskParts.of_artifact(store.require(job.inputs["masks"]))
    guide = build_cells(masks, cells, cell_settings(parent, config.mask_cells))
    collate = Collator(processor.image_processor, processor.tokenizer.pad_token_id, guide)
    batches = [
        [collate([samples.reader.row(a) for a in part]) for part in parts]
        for step in range(samples.order.steps)
        for parts in [micro_batches(samples.order, samples.reader, 0, 1, MICRO, step)]
    ]
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=1e-5, fused=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    tokens, started = 0, 0.0
    for step, parts in enumerate(batches):
        if step == 1:
            tokens, started = 0, time.perf_counter()
        targets, guided = sum(p.target_tokens for p in parts), max(1, sum(p.guided_rows for p in parts))
        optimizer.zero_grad(set_to_none=True)
        for part in parts:
            out = model(**part.inputs(), return_logits=False, use_cache=False)
            loss = out.lm_loss_sum / targets
            if out.guidance_loss_sum is not None:
                loss = loss + model.reduce_guidance(out.guidance_loss_sum, torch.tensor(float(guided)))
            loss.backward()
            tokens += part.tokens
        torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        optimizer.step()
    seconds = time.perf_counter() - started
    return tokens / seconds, seconds / (len(batches) - 1)


def main(arguments: Sequence[str]) -> int:
    """Print the figures; returns 1 if one is over its bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench train", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="time of each run's steps, about (default 40)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind, in turn (default 3)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        wait_briefly()  # as `python -m pipeline run` does
        print(json.dumps(bare_run()))
        return 0
    stages, bares = [], []
    with tempfile.TemporaryDirectory(prefix="bench-train-") as name:
        folder = Path(name)
        job = make_job(folder, max(3, round(options.seconds / LEAST_STEP)))
        (folder / "job.json").write_text(job.model_dump_json())
        command = [sys.executable, "-m", "tests.bench", "train", "--child"]
        environment = {**os.environ, "AGEVLM_BENCH": str(folder)}
        for turn in range(options.repeats):
            stages.append(stage_run(folder, job))
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            bares.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"run {turn}: stage {stages[-1][0]:.1f}, bare {bares[-1][0]:.1f} tokens/s", flush=True)
    efficiency = statistics.median(a / b for (a, _), (b, _) in zip(stages, bares, strict=True))
    wait = statistics.median(wait for _, wait in stages)
    step = statistics.median(seconds for _, seconds in bares)
    print(f"train.efficiency {efficiency:.3f}\ntrain.data_wait {wait:.4f}\ntrain.step_s {step:.2f}")
    return int(efficiency < LEAST_EFFICIENCY or wait > MOST_DATA_WAIT or step < LEAST_STEP)
