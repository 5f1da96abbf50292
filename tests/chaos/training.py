"""Training stages whose processes are killed (-9) at seeded random moments end with the bits of undisturbed ones.

Run: `make chaos` or `python -m tests.chaos training --kills 20 --seed 0`. Each stage is the driver `python -m pipeline
run`, with a Ray session of its own. A killed worker or controller is replaced by the driver; after a killed driver or
head of Ray, the same command is run again. Several kills fall on each stage, also while a checkpoint is written. Only
processes that this program started are looked at: the driver and its descendants.

Prints one line per kill, and at the end `kills N curves equal M`: M kills were in stages whose loss curve and weights
equal the undisturbed ones, bit for bit. Returns 1 unless M = N.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.plan.job import JobSpec
from tests.chaos.driver import Driver, dealt
from tests.chaos.stages import World, result_of
from tests.pipeline.steps.fixtures_store import Bench

TARGETS = {
    "worker": "RayTrainWorker",
    "controller": "TrainController",
    "driver": "",
    "raylet": "raylet/raylet",
    "gcs": "gcs_server",
}
"""Target -> text in the command line of a descendant of the driver; '' is the driver itself."""
KILLED_WRITING = 0.4
"""Share of the kills that wait until a checkpoint is being written."""
LONGEST_DELAY = 4.0  # seconds from the first step after a start to the kill


class Stage(Driver):
    """The driver of one stage, and what it has written."""

    def __init__(self, bench: Bench, job: JobSpec, log: Path) -> None:
        super().__init__(job, log, TARGETS)
        self._bench = bench

    def sealed(self) -> int:
        """Steps of the newest sealed checkpoint."""
        names = self._bench.root.glob(f"store/work/{self.job.ref.id}*/checkpoints-*/_seals/step-*.json")
        return max((int(name.stem[5:]) for name in names), default=0)

    def writes(self) -> bool:
        """True while files of a checkpoint are without a seal."""
        folders = list(self._bench.root.glob(f"store/work/{self.job.ref.id}*/checkpoints-*"))
        with suppress(OSError):
            for folder in folders:
                sealed = {file.stem for file in (folder / "_seals").glob("*.json")}
                # The files, because the folder of a checkpoint that was removed stays.
                if any(file.parent.name.rpartition("-")[0] not in sealed for file in folder.glob("step-*/*")):
                    return True
        return False


def undisturbed(bench: Bench, jobs: dict[str, JobSpec], logs: Path) -> dict[str, dict[str, str]]:
    """Run the stages. Returns the digests of each."""
    for step, job in jobs.items():
        driver = Stage(bench, job, logs / f"undisturbed-{step}.log")
        driver.start()
        while driver.alive:
            time.sleep(0.2)
        driver.end()
        assert driver.published(), f"{step} failed; see {logs}"
    return {step: result_of(bench.store.require(job.ref)) for step, job in jobs.items()}


def disturb(driver: Stage, chance: random.Random, targets: Iterator[str], kills: int) -> list[str]:
    """Run a stage to its end, with up to this many kills. Returns the kills."""
    done: list[str] = []
    while not driver.published():
        if not driver.alive:
            driver.start()
        if len(done) < kills and (killed := _kill_once(driver, chance, targets)):
            done.append(killed)
            print(f"  kill {len(done)}: {killed}", flush=True)
        time.sleep(0.05)
    driver.end()
    return done


def _kill_once(driver: Stage, chance: random.Random, targets: Iterator[str]) -> str | None:
    """Wait for training to go on, then for a random moment, and kill the next target; None if the stage ended first."""
    target, writing = next(targets), chance.random() < KILLED_WRITING
    delay = chance.uniform(0, LONGEST_DELAY)
    before = driver.sealed()
    early = chance.random() < 0.2  # before the first step: while Ray and the workers start
    while not early and driver.alive and not driver.published() and driver.sealed() <= before:
        time.sleep(0.02)
    until = time.monotonic() + delay
    while driver.alive and not driver.published() and time.monotonic() < until:
        time.sleep(0.01)
    while writing and not early and driver.alive and not driver.published() and not driver.writes():
        time.sleep(0.001)
    found = driver.find(target)
    if not driver.alive or driver.published() or found is None:
        return None
    wrote, sealed = driver.writes(), driver.sealed()
    with suppress(psutil.NoSuchProcess):
        found.kill()
        return f"{target} after checkpoint {sealed}{', while one is written' if wrote else ''}"
    return None


def main(arguments: Sequence[str]) -> int:
    """Print the kills and the result; returns 1 if a curve differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos training", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="kills in all (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of targets and moments (default 0)")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of each stage (default 300)")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chance, done, equal, rounds = random.Random(options.seed), 0, 0, 0
    targets, started = dealt(chance, TARGETS), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="agevlm-chaos-") as name:
        folder = Path(name)
        world = World(folder, options.steps)
        expected = undisturbed(*world.jobs("undisturbed"), folder)
        print(f"undisturbed: {time.monotonic() - started:.0f} s", flush=True)
        while done < options.kills:  # a stage may end before it had all its kills; then there is another round
            rounds += 1
            bench, jobs = world.jobs(f"disturbed-{rounds}")
            for index, (step, job) in enumerate(jobs.items()):
                kills = -(-(options.kills - done) // (len(jobs) - index))
                driver = Stage(bench, job, folder / f"round-{rounds}-{step}.log")
                print(f"round {rounds}, {step}: {kills} kills", flush=True)
                killed = disturb(driver, chance, targets, kills)
                same = result_of(bench.store.require(job.ref)) == expected[step]
                done, equal = done + len(killed), equal + len(killed) * same
                print(f"  {'equal' if same else 'DIFFERENT'} after {driver.starts} starts", flush=True)
    print(f"chaos.seconds {time.monotonic() - started:.0f}")
    print(f"kills {done} curves equal {equal}")
    return int(equal != done)
