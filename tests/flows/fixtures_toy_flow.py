"""A flow that executes a plan of toy steps: the system tests deploy, kill, cancel and rerun it on a real stack."""

from pathlib import Path
from typing import Any

from prefect import State, flow, runtime

from flows.run.cancellation import note_crash, stop_jobs
from flows.run.execution import PlanExecution
from flows.run.launch import Launch
from flows.run.preparation import Prepared, force_attempts
from flows.run.ray_jobs import JobClient, RayJobs
from flows.run.run_file import RunFile
from flows.run.settings import read_settings
from pipeline.artifacts.store import ArtifactStore
from tests.pipeline.plan.fixtures_toy_steps import toy_locations, toy_plan

RECIPE = "toys"
MODULE = "tests.pipeline.plan.fixtures_toy_steps"


def run_toys(steps: dict[str, Any], force: list[str], client: JobClient | None = None) -> State[Any]:
    """Execute toy steps, given as key -> [parameters, keys of inputs]; the counterpart of run_recipe."""
    settings = read_settings()
    store, flow_run_id = ArtifactStore(settings.store), str(runtime.flow_run.id)
    run = RunFile.begin(store, flow_run_id, RECIPE, None)
    shape = {key: (params, tuple(inputs)) for key, (params, inputs) in steps.items()}
    plan = force_attempts(store, lambda attempts: toy_plan(shape, attempts), force, run)
    run.set_plan(plan)
    prepared = Prepared(RECIPE, plan, toy_locations(Path(settings.store)), store, None)
    launch = Launch(RECIPE, flow_run_id, settings, MODULE)
    return PlanExecution(prepared, client or RayJobs(settings.jobs_url), launch, run).run()


@flow(name="toy", on_cancellation=[stop_jobs], on_crashed=[note_crash], persist_result=False)
def toy(steps: dict[str, Any], force: list[str] | None = None) -> State[Any]:
    """Execute a toy plan."""
    return run_toys(steps, force or [])
