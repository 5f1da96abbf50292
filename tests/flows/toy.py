"""A tiny step table for testing the walk: real artifacts and real Ray jobs, but steps that only wait and write a line.

`python -m tests.flows.toy run SPEC.json` is its counterpart of `python -m pipeline run SPEC.json`.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pipeline.__main__ as pipeline_main
from model.errors import StepError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.config import Config
from pipeline.plan import Plan, PlannedStep
from pipeline.recipe import Resources
from pipeline.site import Site
from pipeline.steps import context as context_module
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.table import Step


class ToyParams(Config):
    """What a toy step does."""

    seconds: float = 0.0
    rows: int = 3
    fail: str = ""
    tag: str = ""


def work(context: StepContext) -> Outcome:
    """Wait, report progress, write one file; fail if told so."""
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
    counts = Counts(unit="row", rows_in=params.rows, rows_out=params.rows - 1, rejected={"odd": 1})
    return Outcome(counts, {"tag": params.tag, "mean": 0.5})


STEP = Step(
    name="toy",
    summary="a toy step",
    kind="toy",
    unit="row",
    params=ToyParams,
    entry="tests.flows.toy:work",
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


def toy_site(root: Path) -> Site:
    """A site whose store is a folder."""
    return Site(root=str(root), scratch=str(root / "scratch"), sources={}, weights={})


if __name__ == "__main__":
    context_module.STEPS["toy"] = STEP
    # The job's own copy of this module is __main__; the step's entry imports it again under its name.
    sys.argv[0] = "toy"
    pipeline_main.app()
