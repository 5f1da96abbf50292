"""The body that all flows share: settings, recipe, plan, walk; and how each ending is recorded."""

from collections.abc import Callable, Iterable
from typing import Any

from prefect import State, runtime
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.states import Failed

from flows.preparation import Planner, planner, prepare
from flows.ray_jobs import Launch, RayJobs
from flows.run_state import RunFile
from flows.settings import read_settings
from flows.walk import Walk
from model.errors import AgevlmError
from pipeline.artifacts.store import ArtifactStore
from pipeline.recipe import Recipe


def run_recipe(
    load: Callable[[], Recipe], *, until: str | None = None, force: Iterable[str] = (), module: str = "pipeline"
) -> State[Any]:
    """Make every artifact of a recipe, up to `until`; the body of each flow. Returns the flow run's final state.

    Errors that a user can mend become the message of a Failed state, not a traceback.

    Args:
        load: gives the recipe with the flow's parameters; may raise ConfigError.
        until: the last step, by key or name.
        force: keys of steps to make anew.
        module: what the Ray jobs run (tests put their own in its place).
    """
    log = get_run_logger()
    run: RunFile | None = None
    try:
        settings = read_settings()
        recipe = load()
        flow_run_id = str(runtime.flow_run.id)
        run = RunFile.begin(ArtifactStore(settings.store), flow_run_id, recipe.name, _deployment())
        make_plan: Planner = planner(recipe, settings, until)
        prepared = prepare(recipe, settings, make_plan, force, run)
        launch = Launch(recipe.name, flow_run_id, settings, module)
        return Walk(prepared, RayJobs(settings.jobs_url), launch, run).run()
    except AgevlmError as error:
        message = f"{type(error).__name__}: {error}"
        log.error(message)
        if run is not None:
            run.update(state="failed", message=message)
        return Failed(message=message)
    except BaseException as error:
        if run is not None and run.record.state == "running":
            cancelled = isinstance(error, TerminationSignal | KeyboardInterrupt)
            run.close("cancelled" if cancelled else "crashed", f"{type(error).__name__}: {error}")
        raise


def _deployment() -> str | None:
    name = runtime.deployment.name
    return None if name is None else f"{runtime.flow_run.flow_name}/{name}"
