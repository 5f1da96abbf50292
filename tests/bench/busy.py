"""Training steps of the miniature student on two cores, idle and beside two busy processes.

Run: `python -m tests.bench busy`. Three ways to use the cores are measured, in turn:

    one process of two threads, as OpenMP waits by default   a training step before: one at a time
    one process of two threads, waiting as we set it
    two processes of one thread                              the miniature recipe: two steps side by side

Every run is a process of its own, because OpenMP reads its settings once. Figures are ratios of medians of all
processes' steps per second:

    busy.speedup    beside two busy processes: two processes / one process as by default
    busy.idle_cost  on an idle machine: one process as by default / two processes
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.compute.resources import usable_cpus
from pipeline.compute.threads import OWN_SETTINGS, wait_briefly

LEAST_SPEEDUP, MOST_IDLE_COST = 2.0, 1.1
ROWS, TOKENS, WARM_UP = 16, 83, 3  # stage 4 of the miniature recipe: 83 tokens after padding
BUSY = "while True: pass"


@dataclass(frozen=True)
class Way:
    """A way to use two cores."""

    processes: int
    threads: int
    ours: bool

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.processes} x {self.threads} threads, {'our waiting' if self.ours else 'default waiting'}"


BEFORE, WAITING, OURS = Way(1, 2, ours=False), Way(1, 2, ours=True), Way(2, 1, ours=True)


def steps_per_second(threads: int, seconds: float) -> float:
    """Train the miniature student on one random batch for some seconds, in this process, from a signal on."""
    import torch
    import transformers

    from model.agevlm.backbones import from_backbones
    from pipeline.plan.fingerprints import weights_path

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    text, vision = weights_path("text", "miniature"), weights_path("vision", "miniature")
    model = from_backbones(text, vision, seed=0, cross_attention_layers=[1, 3, 5]).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(6, 400, (ROWS, TOKENS))
    side = model.config.vision_config.image_size
    pixels = torch.randn(ROWS, 3, side, side)

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids, pixel_values=pixels, return_logits=False, use_cache=False).loss.backward()
        optimizer.step()

    for _ in range(WARM_UP):
        step()
    print("ready", flush=True)
    sys.stdin.readline()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        done += 1
    return done / (time.perf_counter() - start)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that compute all the time."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure(way: Way, busy: bool, seconds: float) -> float:
    """Steps per second of all processes together, which begin at the same time."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
    command = [sys.executable, "-m", "tests.bench", "busy", "--child", "ours" if way.ours else "default"]
    command += ["--threads", str(way.threads), "--seconds", str(seconds)]
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) for _ in range(way.processes)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    with busy_processes(2 if busy else 0):
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        return sum(float(child.communicate()[0]) for child in children)


def main(arguments: Sequence[str]) -> int:
    """Print the figures; returns 1 if one is over its bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench busy", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="time of each run (default 5)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each case (default 5)")
    parser.add_argument("--child", choices=["ours", "default"], help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        if options.child == "ours":
            wait_briefly()
        print(steps_per_second(options.threads, options.seconds))
        return 0
    cases = [(way, busy) for busy in (False, True) for way in (BEFORE, WAITING, OURS)]
    runs: dict[tuple[Way, bool], list[float]] = {case: [] for case in cases}
    for _ in range(options.repeats):
        for case in cases:
            runs[case].append(measure(*case, options.seconds))
    middle = {case: statistics.median(values) for case, values in runs.items()}
    named = {f"{'busy' if b else 'idle'}, {w.name}": [round(v, 2) for v in runs[w, b]] for w, b in cases}
    speedup, idle_cost = middle[OURS, True] / middle[BEFORE, True], middle[BEFORE, False] / middle[OURS, False]
    figures = {
        "busy.speedup": round(speedup, 3),
        "busy.idle_cost": round(idle_cost, 3),
        "busy.speedup_of_waiting": round(middle[WAITING, True] / middle[BEFORE, True], 3),
        "busy.idle_cost_of_waiting": round(middle[BEFORE, False] / middle[WAITING, False], 3),
        "steps per second": named,
        "cpus": usable_cpus(),
    }
    print(json.dumps(figures, indent=2))
    return int(speedup < LEAST_SPEEDUP or idle_cost > MOST_IDLE_COST)
