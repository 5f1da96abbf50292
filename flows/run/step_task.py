"""A step as a task of Prefect: its name, its edges in the UI, and the state in which it ends."""

import logging
from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed
from prefect.utilities.annotations import allow_failure

from flows.run.step_run import StepResult
from pipeline.plan.planner import PlannedStep

Future = PrefectFuture[Any]


class NoEmptyTraceback(logging.Filter):
    """Removes the traceback 'NoneType: None', which Prefect logs for a task that returned its failure."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without an empty traceback."""
        if record.exc_info and record.exc_info[0] is None:
            record.exc_info = None
        return True


logging.getLogger("prefect.task_runs").addFilter(NoEmptyTraceback())


def submit_step(step: PlannedStep, make: Callable[[], State[Any]], needs: list[Future]) -> Future:
    """Submit the task of a step.

    Args:
        step: its name and its artifact are shown.
        make: the body; runs in a thread.
        needs: tasks of the steps that it needs: the plan's edges in the UI.
    """

    def run(key: str, artifact: str) -> State[Any]:
        return make()

    run_step = task(
        name=step.step.name,
        description=step.step.summary,
        task_run_name=step.key,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(run)
    inputs = [allow_failure(future) for future in needs]
    return run_step.submit(key=step.key, artifact=str(step.ref), wait_for=inputs, return_state=False)


def state_of(result: StepResult) -> State[Any]:
    """The state of a step's task."""
    if result.ending == "cached":
        return Completed(name="Cached", message=result.message)
    if result.ending == "completed":
        return Completed(message=result.message)
    if result.ending == "cancelled":
        return Cancelled(message=result.message)
    return Failed(message=result.message)
