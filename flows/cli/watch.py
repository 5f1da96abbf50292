"""Watches a flow run from the terminal: its run file, its steps' progress and its state, until it is over."""

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from flows.cli import flow_runs
from flows.cli.flow_runs import FlowRun, FlowState
from flows.cli.terminal import Say, duration, rejects_text
from flows.run.run_file import OPEN, RunRecord, StepRecord, read_run
from infra.local.stack_file import StackError
from infra.local.web import Server
from pipeline.artifacts.manifest import plural
from pipeline.artifacts.progress import progress_text, read_progress
from pipeline.artifacts.store import ArtifactStore

POLL_SECONDS = 0.5
STATE_SECONDS = 2.0
"""Between two requests for the run's state; the run file is read at every poll."""
LOST_SECONDS = 120.0
"""Watching ends if the server does not answer for this long. The run itself goes on."""
LINE_SECONDS = 10.0
"""Between two lines about the same running step, if the output is no terminal."""


@dataclass(frozen=True)
class RunSnapshot:
    """Everything that is known of a flow run at one moment."""

    flow: FlowState
    record: RunRecord | None
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Key of a running step -> its latest progress."""
    since: dict[str, float] = field(default_factory=dict)
    """Key of a running step -> seconds for which it has been seen running."""
    seconds: float = 0.0
    """Since the watching began."""

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """The run's steps, in the order of the plan; none before the flow has made its plan."""
        return self.record.steps if self.record else ()


class RunDisplay(Protocol):
    """Shows the snapshots of a flow run."""

    def show(self, snapshot: RunSnapshot) -> None:
        """Show the latest snapshot."""

    def close(self) -> None:
        """Stop showing."""


class Watcher:
    """Follows one flow run."""

    def __init__(self, api: Server, store: ArtifactStore, run: FlowRun) -> None:
        self._api, self._store, self._run = api, store, run
        self._started = self._answered = time.monotonic()
        self._flow = FlowState("SCHEDULED", "Scheduled")
        self._asked = float("-inf")
        self._seen: dict[str, float] = {}

    def read_snapshot(self) -> RunSnapshot:
        """The run as it is now. Raises StackError if its server has not answered for LOST_SECONDS."""
        now = time.monotonic()
        record = read_run(self._store, self._run.id)
        ending = record is not None and record.state not in OPEN
        if ending or now - self._asked >= STATE_SECONDS:  # a run whose file is closed is over in a moment
            self._asked = now
            try:
                self._flow = flow_runs.flow_state(self._api, self._run.id)
                self._answered = time.monotonic()
            except OSError as error:
                if now - self._answered > LOST_SECONDS:
                    raise StackError(
                        f"Prefect has not answered for {LOST_SECONDS:.0f} s ({error}); the run {self._run.id} may go "
                        "on: look at 'agevlm status'"
                    ) from error
        running = [step for step in record.steps if step.state == "running"] if record else []
        progress = {step.key: found for step in running if (found := read_progress(self._store, step.id))}
        for step in running:
            self._seen.setdefault(step.key, now)
        since = {step.key: now - self._seen[step.key] for step in running}
        return RunSnapshot(self._flow, record, progress, since, now - self._started)

    def follow(self, display: RunDisplay, limit: float = float("inf")) -> RunSnapshot:
        """Show the run until it is over (or for `limit` seconds). Returns the last snapshot."""
        deadline = time.monotonic() + limit
        try:
            while True:
                snapshot = self.read_snapshot()
                display.show(snapshot)
                if snapshot.flow.final or time.monotonic() > deadline:
                    return snapshot
                time.sleep(POLL_SECONDS)
        finally:
            display.close()


def outcome_text(step: StepRecord) -> str:
    """The outcome of a step: its rows if it has an artifact, else its message."""
    if step.state not in ("cached", "completed"):
        return step.message
    parts = []
    if step.rows_in is not None and step.rows_out is not None:
        parts.append(f"{step.rows_in} in, {step.rows_out} out ({plural(step.unit)})")
    if step.rejected:
        parts.append(rejects_text(step.rejected))
    return ", ".join(parts)


class LineDisplay:
    """Prints a line for each change of a step, and every LINE_SECONDS one about a step that runs."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._states: dict[str, str] = {}
        self._last_line: dict[str, float] = {}
        self._flow = ""
        self._waiting = 0.0

    def show(self, snapshot: RunSnapshot) -> None:
        """Print the changes since the last snapshot."""
        if snapshot.flow.name != self._flow:
            self._flow = snapshot.flow.name
            self._say(f"flow run: {snapshot.flow.name}")
        if not snapshot.steps and snapshot.seconds - self._waiting >= 3 * LINE_SECONDS:
            self._waiting = snapshot.seconds
            self._say("waiting for the flow to plan its steps")
        for step in snapshot.steps:
            name = f"{step.key:<24}"
            if step.state != self._states.get(step.key, "pending"):
                took = f", {duration(step.seconds)}" if step.state == "completed" else ""
                text = f"{outcome_text(step)}{took}".strip(", ")
                self._say(f"{name} {step.state}{': ' if text else ''}{text}")
                self._last_line[step.key] = snapshot.seconds
            self._states[step.key] = step.state
            found = snapshot.progress.get(step.key)
            if found and snapshot.seconds - self._last_line.get(step.key, 0.0) >= LINE_SECONDS:
                self._say(f"{name} {progress_text(found)}")
                self._last_line[step.key] = snapshot.seconds

    def close(self) -> None:
        """Do nothing: the lines stay."""
