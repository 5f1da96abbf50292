"""Runs a deployment and follows it to its end: the work of `agevlm demo` and `agevlm run --watch`."""

import signal
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from flows.cli import flow_runs
from flows.cli.flow_runs import FlowRun
from flows.cli.surroundings import local_stack
from flows.cli.terminal import Say, console, visible
from flows.cli.watch import LineDisplay, RunDisplay, RunSnapshot, Watcher
from infra.local.web import Server
from pipeline.artifacts.paths import store_root
from pipeline.artifacts.store import ArtifactStore

if TYPE_CHECKING:
    from pipeline.plan.recipe import Recipe

CANCEL_SECONDS = 120.0
INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell has it."""


def run_demo(recipe: str, until: str | None, limit: int | None, say: Say) -> int:
    """Start the stack, run the whole recipe with all its variants, and show it. Returns the exit code.

    Ctrl-C cancels the run. It ends the stack only if this call started it: otherwise other runs may be using it.
    """
    from pipeline.plan.recipe import load_recipe, recipe_argument

    loaded = load_recipe(recipe)
    parameters: dict[str, Any] = {"recipe": recipe_argument(recipe), "variants": list(loaded.variants)}
    parameters |= {name: value for name, value in (("until", until), ("limit", limit)) if value is not None}
    if until is None and limit is None and (estimate := expected(loaded)):
        say(estimate)
    _make_interruptible()
    stack = local_stack()
    was_up = any(row.pid is not None for row in stack.status())
    try:
        state = stack.up(say)
        api = stack.api(state)
        run = flow_runs.start(api, "agevlm/full-recipe", parameters)
    except KeyboardInterrupt:
        if not was_up:
            stack.down(say)
        return INTERRUPTED
    code = follow(api, state.store, run, say, cancel=True)
    if code == INTERRUPTED and not was_up:
        stack.down(say)
        return code
    print(f"\nPrefect  {flow_runs.page(api, run.id)}")
    print(f"Ray      {state.url('ray_dashboard')}")
    print(f"Both {stack.secret_hint()}")
    print("The stack stays up. To end it: agevlm down (or make down)", flush=True)
    return code


def expected(recipe: "Recipe") -> str:
    """The time and disk that a first run of a recipe takes, as one line, or '' if the recipe does not say."""
    minutes, gib = recipe.expected_minutes, recipe.expected_gib
    parts = [] if minutes is None else [f"{minutes:g} minutes"]
    parts += [] if gib is None else [f"{gib:g} GiB of disk"]
    if not parts:
        return ""
    return f"about {' and '.join(parts)} on 2 CPU cores; steps that are in the store already are not run again"


def run_deployment(deployment: str, parameters: dict[str, Any], watch: bool, say: Say) -> int:
    """Start a run of a deployment, and follow it if asked to. Returns the exit code."""
    from pipeline.plan.recipe import recipe_argument

    stack = local_stack()
    state = stack.require()
    api = stack.api(state)
    if isinstance(parameters.get("recipe"), str):
        parameters = {**parameters, "recipe": recipe_argument(parameters["recipe"])}
    started = flow_runs.start(api, deployment, parameters)
    say(f"started {started.deployment} as '{started.name}': {flow_runs.page(api, started.id)}")
    return follow(api, state.store, started, say, cancel=False) if watch else 0


def follow(api: Server, store: str, run: FlowRun, say: Say, cancel: bool) -> int:
    """Follow a run to its end and show its table. Returns 0 if it completed, 1 if not, 130 after Ctrl-C.

    Args:
        api: of the Prefect server that it runs on.
        store: root of the store that it works on.
        run: the run.
        say: prints a line of progress.
        cancel: True if Ctrl-C cancels the run, False if it only ends the watching.
    """
    watcher = Watcher(api, ArtifactStore(store or store_root()), run)
    try:
        last = watcher.follow(_display(say))
    except KeyboardInterrupt:
        if not cancel:
            say(f"no longer watching; the run goes on: {flow_runs.page(api, run.id)}")
            return INTERRUPTED
        _cancel(api, watcher, run, say)
        return INTERRUPTED
    print_end(last, run)
    return 0 if last.flow.type == "COMPLETED" else 1


def _display(say: Say) -> RunDisplay:
    out = console()
    if not out.is_terminal:
        return LineDisplay(say)
    from flows.cli.live_table import LiveTable

    return LiveTable(out)


def _cancel(api: Server, watcher: Watcher, run: FlowRun, say: Say) -> None:
    say(f"cancelling '{run.name}' and its jobs")
    try:
        flow_runs.cancel(api, run.id)
    except OSError as error:
        say(f"Prefect does not answer ({error}); nothing was cancelled")
        return
    with suppress(KeyboardInterrupt):  # a second Ctrl-C ends the waiting
        last = watcher.follow(LineDisplay(say), CANCEL_SECONDS)
        say("cancelled" if last.flow.final else f"not yet cancelled after {CANCEL_SECONDS:.0f} s")


def print_end(last: RunSnapshot, run: FlowRun) -> None:
    """Print the table of a run that is over, the reason if it did not complete, and the path of its report."""
    from flows.cli.artifact_view import short_path
    from flows.cli.live_table import final_table

    out = console()
    if last.steps:
        out.print()
        out.print(final_table(last))
    out.print(f"\n{run.deployment} '{run.name}': {last.flow.name}", highlight=False)
    if last.flow.type != "COMPLETED":
        if last.flow.message:
            print(visible(last.flow.message))
        for step in last.steps:
            if step.state == "failed":
                print(visible(f"\n{step.key} failed (job {step.job or '-'}): {step.message}"))
        for step in last.steps if last.flow.type == "CRASHED" else ():
            if step.job and step.state in ("running", "crashed"):
                print(f"{step.key}: its Ray job {step.job} goes on by itself; run the same again to join it")
        if not last.steps:
            log = local_stack().folders.logs / "worker.log"
            print(f"The flow ended before it had planned its steps. Its output is in {log}")
        print(f'Its log: prefect flow-run logs {run.id}   (after: eval "$(agevlm env)")')
    if last.record is not None and last.record.report:
        print(f"report   {short_path(last.record.report)}", flush=True)


def _make_interruptible() -> None:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM.

    A shell lets the background processes of a script ignore SIGINT, and SIGTERM ends a process without cleaning up.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
