"""Toy steps for tests: they make real artifacts, in Ray jobs or not, but only wait and write one line.

`python -m tests.pipeline.plan.fixtures_toy_steps run SPEC.json` stands for `python -m pipeline run SPEC.json`.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

import pipeline.__main__ as pipeline_main
from model.errors import StepError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.compute.resources import Resources
from pipeline.config import Config
from pipeline.plan.locations import Locations
from pipeline.plan.planner import Plan, PlannedStep
from pipeline.plan.step_table import Step
from pipeline.steps import runner
from pipeline.steps.context import Outcome, StepContext

TIMES = "times.json"
READY = time.time()
"""Time at which this process had imported what it needs."""


class ToyParams(Config):
    """The parameters of a toy step."""

    seconds: float = 0.0
    rows: int = 3
    fail: str = ""
    tag: str = ""
    clock: bool = False


def work(context: StepContext) -> Outcome:
    """Wait, report progress, write one file; fail with the message `fail` if there is one.

    With `clock` another file has the seconds since 1970 at which the process was ready and the work began and ended.
    """
    began = time.time()
    params = context.params(ToyParams)
    parts = max(1, round(params.seconds * 10))
    for part in range(parts):
        time.sleep(params.seconds / parts)
        context.progress.update(part + 1, parts, loss=1.0 / (part + 1))
    if params.fail:
        raise StepError(params.fail)
    print(f"toy says {params.tag or 'nothing'}")
    context.staging.write_bytes("line.txt", f"{params.tag}\n".encode())
    context.staging.write_rejects([("row", "odd", "it was odd")])
    if params.clock:
        times = {"ready": READY, "process": psutil.Process().create_time(), "began": began, "ended": time.time()}
        context.staging.write_bytes(TIMES, json.dumps(times).encode())
    counts = Counts(unit="row", rows_in=params.rows, rows_out=params.rows - 1, rejected={"odd": 1})
    return Outcome(counts, {"tag": params.tag, "mean": 0.5})


STEP = Step(
    name="toy",
    summary="a toy step",
    kind="toy",
    unit="row",
    params=ToyParams,
    entry="tests.pipeline.plan.fixtures_toy_steps:work",
    inputs=dict.fromkeys("abcdefgh", "toy"),
)


def toy_plan(
    steps: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]],
    attempts: Callable[[StepSpec], int] = lambda _: 0,
    resources: Mapping[str, Resources] | None = None,
) -> Plan:
    """A plan of toy steps: key -> (parameters, keys of its inputs)."""
    made: dict[str, PlannedStep] = {}
    for key, (params, inputs) in steps.items():
        names = dict(zip("abcdefgh", inputs, strict=False))
        spec = StepSpec(
            step="toy",
            revision=1,
            params=ToyParams.model_validate({"tag": key, **params}).model_dump(mode="json"),
            inputs={name: made[k].id for name, k in names.items()},
        )
        attempt = attempts(spec)
        ref = ArtifactRef(kind="toy", name=key, id=spec.id(attempt))
        given = (resources or {}).get(key, Resources())
        made[key] = PlannedStep(key, replace(STEP), spec, ref, attempt, names, given)
    return Plan(made.values())


def toy_locations(root: Path) -> Locations:
    """Locations with a store in a folder."""
    return Locations(root=str(root), scratch=str(root / "scratch"), sources={}, weights={})


if __name__ == "__main__":
    runner.STEPS["toy"] = STEP
    # This module runs as __main__ here; the step's entry imports it once more under its own name.
    sys.argv[0] = "toy"
    pipeline_main.app()
