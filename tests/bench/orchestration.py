"""The cost of orchestration: time between two steps, a run with nothing to do, and the idle stack.

Run: `python -m tests.bench orchestration` on an idle machine; about 4 minutes. It starts a stack of its own.

    orchestration.seconds_per_step  from the end of a step's work to the first line of the next one's, as flow and Ray
                                    jobs, less imports and less the same time in the bare script
    orchestration.import_seconds    from the start of a job's process until it has imported what a step without a model
                                    needs; not in the figure above
    orchestration.script_seconds    the same time in a bare script: the steps one after the other in one process
    orchestration.torch_seconds     imports of a training stage's code in a new process: torch and friends
    orchestration.noop_seconds      `agevlm run --watch` of the miniature recipe whose artifacts all exist
    orchestration.idle_gib          memory of the idle stack: private pages, and each process's share of shared ones
    orchestration.idle_cpu          CPU cores that the idle stack uses

The steps are a chain of toy steps that do nothing. The artifacts of the recipe are made up: their ids are the real
ones, so the flow finds them as it would find real ones.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from flows.run.preparation import planner
from flows.run.settings import Settings
from infra.local.processes import family
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.paths import PROJECT
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.planner import Plan
from pipeline.plan.recipe import load_recipe
from tests.infra.local.fixtures_home import Home, wait_for
from tests.pipeline.plan.fixtures_toy_steps import TIMES, toy_plan

MOST_SECONDS, MOST_NOOP, MOST_GIB = 5.0, 15.0, 1.2
RECIPE = "miniature"
SCRIPT = """
import json, sys
from pathlib import Path
from pipeline.plan.job import job_of
from pipeline.steps import runner
from tests.pipeline.plan.fixtures_toy_steps import STEP, toy_locations, toy_plan
root, steps = Path(sys.argv[1]), json.loads(sys.argv[2])
runner.STEPS["toy"] = STEP
plan = toy_plan({key: (params, tuple(inputs)) for key, (params, inputs) in steps.items()})
for step in plan:
    runner.run_job(job_of(step, plan, toy_locations(root)))
"""
CACHED = re.compile(r"^\S+ +[0-9a-f]{12} +cached ", re.MULTILINE)
"""A row of the table of steps that a command ends with."""
TORCH = "import pipeline.training.worker"


def chain(count: int, tag: str) -> dict[str, Any]:
    """A chain of toy steps: key -> [parameters, keys of inputs]."""
    keys = [f"{tag}-{number}" for number in range(count)]
    return {key: [{"clock": True}, keys[:number][-1:]] for number, key in enumerate(keys)}


def times_of(store: ArtifactStore, steps: dict[str, Any]) -> list[dict[str, float]]:
    """The times that each step of a chain recorded, in order."""
    plan = toy_plan({key: (params, tuple(inputs)) for key, (params, inputs) in steps.items()})
    found = []
    for step in plan:
        with store.require(step.ref).open(TIMES) as stream:
            found.append(json.load(stream))
    return found


def gaps(times: list[dict[str, float]]) -> list[float]:
    """Seconds from the end of each step's work to the first line of the next one's."""
    return [after["began"] - before["ended"] for before, after in pairwise(times)]


def run_chain(home: Home, steps: dict[str, Any]) -> list[dict[str, float]]:
    """Run a chain as a flow on the stack."""
    deployment: Any = home.prefect.call("/deployments/name/toy/toy", timeout=60)
    body = {"parameters": {"steps": steps}}
    run: Any = home.prefect.call(f"/deployments/{deployment['id']}/create_flow_run", body, timeout=60)

    def ended() -> bool:
        value: Any = home.prefect.answers(f"/flow_runs/{run['id']}", timeout=60)
        kind = value["state"]["type"] if value else ""
        if kind in ("FAILED", "CRASHED", "CANCELLED"):
            raise RuntimeError(f"the toy run ended {kind}: {value['state']['message']}")
        return str(kind) == "COMPLETED"

    wait_for(ended, 600)
    return times_of(ArtifactStore(str(home.path / "artifacts")), steps)


def script_chain(steps: dict[str, Any]) -> list[dict[str, float]]:
    """Run the same chain in one process."""
    with tempfile.TemporaryDirectory(prefix="agevlm-bench-") as folder:
        command = [sys.executable, "-c", SCRIPT, folder, json.dumps(steps)]
        subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
        return times_of(ArtifactStore(folder), steps)


def make_up_artifacts(store: ArtifactStore, scratch: Path) -> int:
    """Publish an artifact for every step of the recipe. Returns their number."""
    settings = Settings(store=store.root, scratch=scratch, jobs_url="", repo=PROJECT)
    plan: Plan = planner(load_recipe(RECIPE), settings)(store.attempt)
    for step in plan:
        parents = {name: store.require(plan[key].ref) for name, key in step.inputs.items()}
        staging = Staging(store, step.ref, step.spec, step.attempt, parents)
        staging.write_bytes("report.html" if step.ref.kind == "report" else "file", b"made up")
        staging.publish(Counts(unit=step.step.unit, rows_in=1, rows_out=1))
    return len(list(plan))


def noop_seconds(home: Home, steps: int) -> float:
    """Seconds of a run of the recipe in which every step is cached."""
    started = time.monotonic()
    result = home.agevlm("run", "agevlm/full-recipe", "-p", f"recipe={RECIPE}", "--watch")
    seconds = time.monotonic() - started
    if result.returncode or len(CACHED.findall(result.stdout)) != steps:
        raise RuntimeError(f"the run did not find its artifacts:\n{result.stdout}\n{result.stderr}")
    return seconds


def idle(home: Home, seconds: float) -> tuple[float, float]:
    """Memory (GiB) of the stack's processes, and the CPU cores that they use."""
    processes = family(home.state)
    before, started = sum(_cpu(p) for p in processes), time.monotonic()
    time.sleep(seconds)
    cpu = (sum(_cpu(p) for p in processes) - before) / (time.monotonic() - started)
    for process in processes:
        print(f"  {process.memory_full_info().pss / 2**20:6.0f} MiB  {' '.join(process.cmdline())[:90]}")
    return sum(process.memory_full_info().pss for process in processes) / 2**30, cpu


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def torch_seconds() -> float:
    """Seconds of the imports of a training worker in a new process, above those of an empty one."""
    found = []
    for code in ("pass", TORCH):
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", code], cwd=PROJECT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        found.append(time.monotonic() - started)
    return found[1] - found[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; returns 1 if one is over its bound."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench orchestration", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=6, help="toy steps of a chain")
    parser.add_argument("--rounds", type=int, default=2, help="chains, and runs with nothing to do")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds for which the idle stack is watched")
    said = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="agevlm-bench-") as folder:
        home = Home(Path(folder) / "home")
        try:
            up = home.agevlm("up")
            if up.returncode:
                raise RuntimeError(up.stdout + up.stderr)
            time.sleep(10)  # the servers' start is over
            gib, cores = idle(home, said.idle)
            home.deploy_toys()
            jobs: list[dict[str, float]] = []
            between: list[float] = []
            bare: list[float] = []
            for number in range(said.rounds):
                steps = chain(said.steps, f"round{number}")
                times = run_chain(home, steps)
                jobs += times[1:]
                between += gaps(times)
                bare += gaps(script_chain(steps))
            count = make_up_artifacts(ArtifactStore(str(home.path / "artifacts")), home.path / "scratch")
            noops = [noop_seconds(home, count) for _ in range(said.rounds + 1)][1:]
        finally:
            home.agevlm("down")
    imported = statistics.median(each["ready"] - each["process"] for each in jobs)
    script = statistics.median(bare)
    figures = {
        "seconds_per_step": statistics.median(between) - imported - script,
        "import_seconds": imported,
        "script_seconds": script,
        "torch_seconds": torch_seconds(),
        "noop_seconds": statistics.median(noops),
        "idle_gib": gib,
        "idle_cpu": cores,
    }
    for name, value in figures.items():
        print(f"orchestration.{name} {value:.3g}", flush=True)
    good = figures["seconds_per_step"] <= MOST_SECONDS and figures["noop_seconds"] <= MOST_NOOP and gib <= MOST_GIB
    return 0 if good else 1
