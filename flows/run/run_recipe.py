"""The body that all flows share: settings, recipe, plan, execution; and the record of each ending."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from prefect import State, runtime
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.states import Failed
from prefect.utilities.callables import get_parameter_defaults
from prefect.utilities.urls import url_for

from flows.run.execution import PlanExecution
from flows.run.launch import Launch
from flows.run.metrics_note import leave_metrics_note
from flows.run.prefect_notes import attempt_note, leave_run_note
from flows.run.preparation import Planner, planner, prepare
from flows.run.ray_jobs import RayJobs
from flows.run.run_file import RunFile
from flows.run.settings import read_settings
from flows.run.stopping import attempt
from model.errors import AgevlmError
from pipeline.artifacts.manifest import Origin
from pipeline.artifacts.room import explained
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.recipe import Recipe, recipe_text


def run_recipe(load: Callable[[], Recipe], *, until: str | None = None, force: Iterable[str] = ()) -> State[Any]:
    """Make every artifact of a recipe, up to `until`; the body of each flow. Returns the flow run's final state.

    An AgevlmError or OSError, which a user can mend, becomes the message of a Failed state and not a traceback.

    Args:
        load: gives the recipe with the flow's parameters; may raise ConfigError.
        until: the last step, by key or name.
        force: keys of steps to make anew.
    """
    log = get_run_logger()
    run: RunFile | None = None
    try:
        settings = read_settings()
        recipe = load()
        flow_run_id, command = str(runtime.flow_run.id), flow_command()
        origin = this_run(command["deployment"])
        store, links = ArtifactStore(settings.store), (origin.flow_run, origin.flow_run_page)
        run = RunFile.begin(store, flow_run_id, recipe.name, origin.deployment, command["parameters"], *links)
        attempt_note(lambda: leave_metrics_note(recipe.name), log.warning)
        make_plan: Planner = planner(recipe, settings, until)
        prepared = prepare(recipe, settings, make_plan, force, run, command)
        launch = Launch(recipe.name, flow_run_id, settings, origin=origin)
        attempt_note(lambda: leave_run_note(run.record, settings), log.warning)
        return PlanExecution(prepared, RayJobs(settings.jobs_url), launch, run).run()
    except (AgevlmError, OSError) as error:
        message = f"{type(error).__name__}: {explained(error) if isinstance(error, OSError) else error}"
        log.error(message)
        if run is not None:
            failed = partial(run.update, state="failed", message=message)
            attempt(failed, "the end of the run was not written", log)  # perhaps the same disk that failed just now
        return Failed(message=message)
    except BaseException as error:
        if run is not None and run.record.state == "running":
            cancelled = isinstance(error, TerminationSignal | KeyboardInterrupt)
            close = partial(run.close, "cancelled" if cancelled else "crashed", f"{type(error).__name__}: {error}")
            attempt(close, "the end of the run was not written", log)  # the error itself must go on
        raise


def this_run(deployment: str | None) -> Origin:
    """The flow run of this process, with its name and its page in Prefect."""
    flow_run_id = str(runtime.flow_run.id)
    page = url_for("flow-run", obj_id=flow_run_id)
    name = runtime.flow_run.name or ""
    return Origin(flow_run_id=flow_run_id, flow_run=name, deployment=deployment, flow_run_page=page)


def flow_command() -> dict[str, Any]:
    """The command that started this flow run; its jobs carry it, so that the report can print it.

    Returns 'deployment' (FLOW/NAME, or None for a call in Python), 'parameters' (those that differ from the flow's
    defaults) and 'recipe' (the text of the recipe's YAML file). Raises ConfigError if that file cannot be read.
    """
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow is not None
    given = context.parameters or {}
    defaults = get_parameter_defaults(context.flow.fn)
    deployment = runtime.deployment.name
    return {
        "deployment": None if deployment is None else f"{context.flow.name}/{deployment}",
        "parameters": {name: value for name, value in given.items() if value is not None and value != defaults[name]},
        "recipe": recipe_text(given["recipe"]),
    }
