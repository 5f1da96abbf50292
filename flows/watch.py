"""Watching a flow run from the terminal: its run file, its steps' progress and its state, until it is over."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from flows import flow_runs
from flows.flow_runs import FlowRun, FlowState
from flows.run_state import RunRecord, StepRecord, read_run
from flows.state import StackError, StackState
from flows.terminal import duration, rows_of
from pipeline.artifacts.manifest import plural
from pipeline.artifacts.store import ArtifactStore
from pipeline.progress import progress_text, read_progress

POLL_SECONDS = 0.5
STATE_SECONDS = 2.0
LOST_SECONDS = 120.0
"""For so long the server may be away before watching gives up (the run itself goes on)."""
SPEAK_SECONDS = 10.0
"""Between two lines about the same running step where there is no terminal to draw on."""


@dataclass(frozen=True)
class View:
    """All that is known of a run at one moment."""

    flow: FlowState
    record: RunRecord | None
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Key of a running step -> its latest progress."""
    since: dict[str, float] = field(default_factory=dict)
    """Key of a running step -> seconds for which it has been seen running."""
    seconds: float = 0.0

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """The run's steps, in the order of the plan; none before the flow has planned."""
        return self.record.steps if self.record else ()


class Screen(Protocol):
    """Something that shows views."""

    def show(self, view: View) -> None:
        """Show the latest view."""

    def close(self) -> None:
        """Stop showing."""


class Watcher:
    """Follows one flow run."""

    def __init__(self, state: StackState, store: ArtifactStore, run: FlowRun) -> None:
        self._state, self._store, self._run = state, store, run
        self._started = self._answered = time.monotonic()
        self._flow = FlowState("SCHEDULED", "Scheduled")
        self._asked = float("-inf")
        self._seen: dict[str, float] = {}

    def look(self) -> View:
        """The run as it is now. Raises StackError if its server has been away for too long."""
        now = time.monotonic()
        if now - self._asked >= STATE_SECONDS:
            self._asked = now
            try:
                self._flow = flow_runs.flow_state(self._state, self._run.id)
                self._answered = time.monotonic()
            except OSError as error:
                if now - self._answered > LOST_SECONDS:
                    raise StackError(
                        f"Prefect has not answered for {LOST_SECONDS:.0f} s ({error}); the run {self._run.id} may go "
                        "on: look at 'agevlm status'"
                    ) from error
        record = read_run(self._store, self._run.id)
        running = [step for step in record.steps if step.state == "running"] if record else []
        progress = {step.key: found for step in running if (found := read_progress(self._store, step.id))}
        for step in running:
            self._seen.setdefault(step.key, now)
        since = {step.key: now - self._seen[step.key] for step in running}
        return View(self._flow, record, progress, since, now - self._started)

    def follow(self, screen: Screen, limit: float = float("inf")) -> View:
        """Show the run until it is over (or for `limit` seconds). Returns the last view."""
        deadline = time.monotonic() + limit
        try:
            while True:
                view = self.look()
                screen.show(view)
                if view.flow.final or time.monotonic() > deadline:
                    return view
                time.sleep(POLL_SECONDS)
        finally:
            screen.close()


def outcome_text(step: StepRecord) -> str:
    """What became of a step, in words."""
    if step.state not in ("cached", "completed"):
        return step.message
    parts = []
    if step.rows_in is not None and step.rows_out is not None:
        parts.append(f"{step.rows_in} in, {step.rows_out} out ({plural(step.unit)})")
    if step.rejected:
        parts.append(rows_of(step.rejected))
    return ", ".join(parts)


class Lines:
    """A screen of plain lines: one for each change of a step, and now and then one about a step that runs."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._states: dict[str, str] = {}
        self._spoken: dict[str, float] = {}
        self._flow = ""
        self._waiting = 0.0

    def show(self, view: View) -> None:
        """Say what changed since the last view."""
        if view.flow.name != self._flow:
            self._flow = view.flow.name
            self._say(f"flow run: {view.flow.name}")
        if not view.steps and view.seconds - self._waiting >= 3 * SPEAK_SECONDS:
            self._waiting = view.seconds
            self._say("waiting for the flow to plan its steps")
        for step in view.steps:
            name = f"{step.key:<24}"
            if step.state != self._states.get(step.key, "pending"):
                took = f", {duration(step.seconds)}" if step.state == "completed" else ""
                text = f"{outcome_text(step)}{took}".strip(", ")
                self._say(f"{name} {step.state}{': ' if text else ''}{text}")
                self._spoken[step.key] = view.seconds
            self._states[step.key] = step.state
            found = view.progress.get(step.key)
            if found and view.seconds - self._spoken.get(step.key, 0.0) >= SPEAK_SECONDS:
                self._say(f"{name} {progress_text(found)}")
                self._spoken[step.key] = view.seconds

    def close(self) -> None:
        """Nothing to put away."""
