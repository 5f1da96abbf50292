"""Running a deployment and watching it to its end: what `agevlm demo` and `agevlm run --watch` do."""

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from flows import flow_runs, stack
from flows.flow_runs import FlowRun
from flows.home import logs, store_root
from flows.services import token_words
from flows.state import StackState
from flows.terminal import console
from flows.watch import Lines, Screen, View, Watcher
from pipeline.artifacts.store import ArtifactStore

CANCEL_SECONDS = 120.0
INTERRUPTED = 130
Say = Callable[[str], None]


def demo(recipe: str, until: str | None, limit: int | None, say: Say) -> int:
    """Start the stack, run the whole recipe with all its variants, and show it. Returns the exit code."""
    from pipeline.recipe import load_recipe, recipe_argument

    variants = list(load_recipe(recipe).variants)
    parameters: dict[str, Any] = {"recipe": recipe_argument(recipe), "variants": variants}
    parameters |= {name: value for name, value in (("until", until), ("limit", limit)) if value is not None}
    _interruptible()
    was_up = any(row.pid is not None for row in stack.status())  # then others may be using it: Ctrl-C spares it
    try:
        state = stack.up(say)
        run = flow_runs.start(state, "agevlm/full-recipe", parameters)
    except KeyboardInterrupt:
        if not was_up:
            stack.down(say)
        return INTERRUPTED
    code = watch(state, run, say, cancel=True)
    if code == INTERRUPTED and not was_up:
        stack.down(say)
        return code
    print(f"\nPrefect  {flow_runs.page(state, run.id)}")
    print(f"Ray      {state.url('ray_dashboard')}   ({token_words()})")
    print("The stack stays up. To end it: agevlm down (or make down)", flush=True)
    return code


def run(deployment: str, parameters: dict[str, Any], follow: bool, say: Say) -> int:
    """Start a run of a deployment, and follow it if asked to. Returns the exit code."""
    from pipeline.recipe import recipe_argument

    state = stack.require()
    if isinstance(parameters.get("recipe"), str):
        parameters = {**parameters, "recipe": recipe_argument(parameters["recipe"])}
    started = flow_runs.start(state, deployment, parameters)
    say(f"started {started.deployment} as '{started.name}': {flow_runs.page(state, started.id)}")
    return watch(state, started, say, cancel=False) if follow else 0


def watch(state: StackState, run: FlowRun, say: Say, cancel: bool) -> int:
    """Follow a run to its end and show its table. Returns 0 if it completed, 1 if not, 130 after Ctrl-C.

    Args:
        cancel: whether Ctrl-C cancels the run, or only ends the watching.
    """
    watcher = Watcher(state, ArtifactStore(state.store or store_root()), run)
    try:
        view = watcher.follow(_screen(say))
    except KeyboardInterrupt:
        if not cancel:
            say(f"no longer watching; the run goes on: {flow_runs.page(state, run.id)}")
            return INTERRUPTED
        _cancel(state, watcher, run, say)
        return INTERRUPTED
    _tell(view, run)
    return 0 if view.flow.type == "COMPLETED" else 1


def _screen(say: Say) -> Screen:
    out = console()
    if not out.is_terminal:
        return Lines(say)
    from flows.screen import LiveTable

    return LiveTable(out)


def _cancel(state: StackState, watcher: Watcher, run: FlowRun, say: Say) -> None:
    say(f"cancelling '{run.name}' and its jobs")
    try:
        flow_runs.cancel(state, run.id)
    except OSError as error:
        say(f"Prefect does not answer ({error}); nothing was cancelled")
        return
    with suppress(KeyboardInterrupt):  # a second Ctrl-C: no longer wait
        view = watcher.follow(Lines(say), CANCEL_SECONDS)
        say("cancelled" if view.flow.final else f"not yet cancelled after {CANCEL_SECONDS:.0f} s")


def _tell(view: View, run: FlowRun) -> None:
    from flows.screen import final_table

    out = console()
    if view.steps:
        out.print()
        out.print(final_table(view))
    broken = [step for step in view.steps if step.state == "failed"]
    out.print(f"\n{run.deployment} '{run.name}': {view.flow.name}", highlight=False)
    if view.flow.type != "COMPLETED":
        if view.flow.message:
            print(view.flow.message)
        for step in broken:
            print(f"\n{step.key} failed (job {step.job or '-'}): {step.message}")
        if view.flow.type == "CRASHED":
            for step in view.steps:
                if step.job and step.state in ("running", "crashed"):
                    print(f"{step.key}: its Ray job {step.job} goes on by itself; run the same again to join it")
        if not view.steps:
            print(f"The flow ended before it had planned its steps. Its output is in {logs() / 'worker.log'}")
        print(f'Its log: prefect flow-run logs {run.id}   (after: eval "$(agevlm env)")')
    if view.record is not None and view.record.report:
        print(f"report   {view.record.report}", flush=True)


def _interruptible() -> None:
    """Ctrl-C works also where a script started this in the background, and SIGTERM ends things as cleanly."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
