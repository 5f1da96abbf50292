"""Time and steps that a killed training worker costs.

Run: `python -m tests.bench resume`. The tiny student trains stage 1 as `python -m pipeline run` does it, with a
checkpoint every 10 steps. Its Ray Train worker is killed (-9) several times at seeded moments.

    resume.seconds      from the kill to the first step that had not been done before (median)
    resume.steps_redone steps that were done twice, at most; the bound is one checkpoint interval

The stage's progress is read from the store, which has it every half second: a step counts as done once it is there.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pipeline.artifacts.progress import read_progress
from tests.chaos.stages import EXECUTION, World
from tests.chaos.training import Stage

LONGEST_WAIT = 300.0  # seconds


def waited(condition: Callable[[], Any]) -> Any:
    """The first true value of a condition. Raises TimeoutError."""
    deadline = time.monotonic() + LONGEST_WAIT
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {LONGEST_WAIT:.0f} s in vain")
        time.sleep(0.02)
    return value


def main(arguments: Sequence[str]) -> int:
    """Print the figures; returns 1 if more steps were redone than a checkpoint interval has."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench resume", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3, help="kills (default 3)")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the stage (default 1000)")
    options = parser.parse_args(arguments)
    chance, seconds, redone = random.Random(0), [], []
    with tempfile.TemporaryDirectory(prefix="bench-resume-") as name:
        world = World(Path(name), options.steps)
        bench, jobs = world.jobs("store")
        job, batch = jobs["stage1"], world.config.global_batch

        def steps_done() -> int:
            return int((read_progress(bench.store, job.ref.id) or {"done": 0})["done"]) // batch

        driver = Stage(bench, job, Path(name) / "stage1.log")
        driver.start()
        for _ in range(options.kills):
            known = driver.sealed()
            waited(lambda known=known: driver.sealed() > known)  # type: ignore[misc]
            time.sleep(chance.uniform(0.5, 2))
            worker = waited(lambda: driver.find("worker"))
            worker.kill()
            killed = time.monotonic()
            with suppress(psutil.Error):
                worker.wait(10)
            before = steps_done()
            first = waited(lambda before=before: (now := steps_done()) != before and now)  # type: ignore[misc]
            waited(lambda before=before: steps_done() > before)  # type: ignore[misc]
            seconds.append(time.monotonic() - killed)
            redone.append(max(0, before - (first - 1)))
            print(f"killed after step {before}: went on at step {first}, {seconds[-1]:.1f} s", flush=True)
        while driver.alive:
            time.sleep(0.2)
        driver.end()
    interval = EXECUTION.checkpoint_steps or 0
    print(f"resume.seconds {statistics.median(seconds):.1f}\nresume.steps_redone {max(redone)}")
    return int(max(redone) > interval)
