"""The stop of a cancelled run in its own process: the mark in the store, the jobs in Ray, and what the run file says.

Nothing here waits for long, whatever does not answer: Prefect kills the flow process 30 s after its signal. A run whose
jobs could not all be stopped stays 'cancelling', and the cancellation hook looks again.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flows.run.bounded import wait_at_most, within
from flows.run.run_file import RunFile
from flows.run.step_run import StepRun, Stop
from model.errors import AgevlmError

CANCEL_SECONDS = 10.0
"""Longest time for stopping the jobs of a cancelled run."""
STORE_SECONDS = 2.0
"""Longest time for one write to the store."""
Logger = logging.Logger | logging.LoggerAdapter[Any]


def stop_steps(runners: Mapping[str, StepRun], run: RunFile, stop: Stop, log: Logger) -> bool:
    """Stop the jobs of the steps that run, and wake their threads. Returns True if nothing of them is left.

    Args:
        runners: the steps that run, by key.
        run: the run's file; it is marked as cancelled first, so that of two runs that are cancelled at once and share
            a job the later one stops it.
        stop: what the threads look at. A thread that is just submitting its job then stops it itself.
    """
    deadline = time.monotonic() + CANCEL_SECONDS
    stop.cancelled = True
    attempt(run.cancel, "the cancel was not written", log)
    stoppers = [threading.Thread(target=_stop_step, args=(runner, log), daemon=True) for runner in runners.values()]
    for stopper in stoppers:  # at once: a job that Ray is slow to stop does not hold up the others
        stopper.start()
    wait_at_most(stoppers, deadline - time.monotonic())
    stop.set()
    for runner in runners.values():  # a step that is just submitting its job must stop it before this process ends
        runner.over.wait(max(0.0, deadline - time.monotonic()))
    return all(runner.nothing_left for runner in runners.values())


def attempt(write: Callable[[], None], what: str, log: Logger) -> None:
    """Write to the store; if that fails or takes longer than STORE_SECONDS it is logged, and no more."""
    try:
        within(STORE_SECONDS, write)
    except Exception as error:  # the library of an object store raises errors of many types
        log.warning(f"{what}: {error}")


def _stop_step(runner: StepRun, log: Logger) -> None:
    try:
        runner.stop_job(log.info)
    except AgevlmError as error:  # the other jobs are stopped all the same
        log.warning(str(error))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore SIGTERM and SIGINT, so that a second cancel does not interrupt the first; no effect in other threads."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
