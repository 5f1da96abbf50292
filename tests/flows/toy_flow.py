"""A flow that walks a toy plan on the real stack: what the system tests deploy, kill, cancel and run again."""

from pathlib import Path
from typing import Any

from prefect import State, flow, runtime

from flows.cancellation import note_crash, stop_jobs
from flows.preparation import Prepared, force_attempts
from flows.ray_jobs import JobClient, Launch, RayJobs
from flows.run_state import RunFile
from flows.settings import read_settings
from flows.walk import Walk
from pipeline.artifacts.store import ArtifactStore
from tests.flows.toy import toy_plan, toy_site

RECIPE = "toys"
MODULE = "tests.flows.toy"


def walk_toys(steps: dict[str, Any], force: list[str], client: JobClient | None = None) -> State[Any]:
    """Walk toy steps (key -> [parameters, keys of inputs]); the counterpart of flows.walk.run_recipe."""
    settings = read_settings()
    store, flow_run_id = ArtifactStore(settings.store), str(runtime.flow_run.id)
    run = RunFile.begin(store, flow_run_id, RECIPE, None)
    shape = {key: (params, tuple(inputs)) for key, (params, inputs) in steps.items()}
    plan = force_attempts(store, lambda attempts: toy_plan(shape, attempts), force, run)
    run.set_plan(plan)
    prepared = Prepared(RECIPE, plan, toy_site(Path(settings.store)), store, None)
    launch = Launch(RECIPE, flow_run_id, settings, MODULE)
    return Walk(prepared, client or RayJobs(settings.jobs_url), launch, run).run()


@flow(name="toy", on_cancellation=[stop_jobs], on_crashed=[note_crash], persist_result=False)
def toy(steps: dict[str, Any], force: list[str] | None = None) -> State[Any]:
    """Walk a toy plan."""
    return walk_toys(steps, force or [])
