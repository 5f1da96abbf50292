"""`python -m pipeline.student.calibrate RECIPE DATA`: measure the training speed of a recipe's student on this machine.

A program of its own because it imports torch, which the command line must not. It trains each row of the stage table
that the recipe has on random batches, with the recipe's micro-batch, threads and precision, for a few seconds each.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from model.errors import AgevlmError
from pipeline.artifacts.paths import scratch_folder
from pipeline.compute.resources import Resources
from pipeline.compute.threads import wait_briefly
from pipeline.plan.costs.calibration import Calibration, calibration_file, this_machine, write_calibration
from pipeline.plan.costs.student import Student, student_of
from pipeline.plan.recipe import Recipe, load_recipe
from pipeline.training.config import StageConfig
from pipeline.training.flops import Work, flops_per_step

SECONDS, WARM_UP, FEWEST = 4.0, 1, 3
"""Time of each row's measurement, and steps before it and at least in it."""


def calibrate(recipe: Recipe, data: Mapping[str, Mapping[str, Any]]) -> Calibration:
    """Measure every row of `data`: row -> 'step' of the recipe, mean 'tokens' and 'targets' of a row of its pack.

    Raises ConfigError if the student cannot be built.
    """
    import psutil
    import torch

    from model.stage_table import stage_row
    from model.stages import apply_stage
    from pipeline.plan.locations import locations_of
    from pipeline.training.student import join_backbones

    places = locations_of(recipe, "", "")
    model, _ = join_backbones(recipe.student, places.weights_of("text"), places.weights_of("vision"), recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    model.model.vision_tower.to(memory_format=torch.channels_last)
    started = time.time() - psutil.Process().create_time()
    student, speeds = student_of(recipe), {}
    for name, told in data.items():
        resources = recipe.resources.get(told["step"], Resources())
        torch.set_num_threads(resources.threads)
        apply_stage(model, stage_row(name))
        config = recipe.training.stage(told["step"])
        speeds[name] = row_speed(model, student, name, config, resources, told["tokens"], told["targets"])
        print(f"{name}: {speeds[name] / 1e9:.1f} GFLOP/s", flush=True)
    return Calibration(
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=this_machine(),
        flops=speeds,
        start_seconds=started,
    )


def row_speed(
    model: Any,
    student: Student,
    row: str,
    config: StageConfig,
    resources: Resources,
    tokens: float,
    targets: float,
    seconds: float = SECONDS,
) -> float:
    """FLOP/s of one worker in steps of a stage, on random batches of the mean length.

    A step is its micro-batches and one update; both are timed, because small students spend much of it in the update.
    """
    import torch

    from model.stage_table import stage_row
    from model.stages import parameter_groups

    share = -(-config.global_batch // resources.workers)
    rows = min(resources.micro_batch, share)
    length, targeted = max(2, round(tokens)), max(1, round(targets))
    device, vision = model.device, model.config.vision_config
    ids = torch.randint(6, model.config.text_config.vocab_size, (rows, length), device=device)
    labels = ids.clone()
    labels[:, : length - targeted] = -100
    mask = torch.ones_like(ids)
    mask[0, -1] = 0  # rows of a batch are padded, and the mask has a cost
    pixels = torch.randn(rows, 3, vision.image_size, vision.image_size, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    cells = torch.ones(rows, vision.num_cells, dtype=torch.bool, device=device)
    cells[:, 0] = False
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=0.0, fused=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    half = config.precision != "fp32"

    def micro_batch() -> None:
        around = torch.autocast(device.type, dtype=torch.bfloat16) if half else contextlib.nullcontext()
        with around:
            out = model(
                input_ids=ids, attention_mask=mask, labels=labels, pixel_values=pixels, cell_mask=cells,
                return_logits=False, use_cache=False,
            )  # fmt: skip
        out.loss.backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def one() -> None:
        micro_batch()
        update()

    both = _median(one, seconds, device.type)
    alone = _median(update_alone(trained, optimizer, config.clip_norm), min(1.0, seconds / 4), device.type)
    count = share / rows
    step_seconds = count * max(both - alone, both / 10) + alone
    work = Work(rows=share, images=share, tokens=share * length, target_tokens=share * targeted)
    return flops_per_step(student.sizes, stage_row(row), work).hardware / step_seconds


def update_alone(trained: list[Any], optimizer: Any, clip_norm: float) -> Callable[[], None]:
    """An update with gradients that are there already."""
    import torch

    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(trained, clip_norm)
        optimizer.step()

    return update


def _median(run: Callable[[], None], seconds: float, device: str) -> float:
    """Median seconds of a call, over at least FEWEST calls."""
    import statistics

    import torch

    for _ in range(WARM_UP):
        run()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < FEWEST or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


if __name__ == "__main__":
    try:
        wait_briefly()
        chosen = load_recipe(sys.argv[1])
        found = calibrate(chosen, json.loads(sys.argv[2]))
        file = calibration_file(scratch_folder(), chosen, student_of(chosen), this_machine())
        write_calibration(file, found)
        print(f"wrote {file}")
    except AgevlmError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
