"""The run file: the state of a flow run and of its steps, one small JSON object in the store, rewritten at each change.

Every change of a state also becomes an event of the run's event log, whichever process makes the change.

`agevlm run --watch` reads it, the cancellation hook (another process) finds the jobs to stop in it, and a retry of the
same flow run reads the attempts that were forced already.
"""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from flows.run.cancel_mark import SUFFIX, is_marked, mark_cancel, unmark
from flows.run.event_log import EventLog
from flows.run.events import Facts, split_error
from model.errors import ConfigError
from pipeline.artifacts.filesystem import files, read_each
from pipeline.artifacts.store import ArtifactStore
from pipeline.config import Config, validate
from pipeline.plan.planner import Plan
from pipeline.steps.reject_limit import read_reject_limit

StepState = Literal["pending", "running", "cached", "completed", "failed", "cancelled", "crashed", "skipped"]
RunStateName = Literal["running", "cancelling", "completed", "failed", "cancelled", "crashed"]
OPEN: frozenset[str] = frozenset({"running", "cancelling"})
"""States of a run that is not over; 'cancelling' is left to the cancellation hook. It comes from the mark of a cancel
(`cancel_mark`), which a reader lays over 'running'."""


class StepRecord(Config):
    """One step of a flow run."""

    key: str
    id: str = Field(description="id of the artifact that the step makes")
    kind: str
    name: str
    state: StepState = "pending"
    job: str | None = Field(default=None, description="Ray submission id of the job that made or is making it")
    rows_in: int | None = None
    rows_out: int | None = None
    unit: str = ""
    rejected: dict[str, int] = Field(default_factory=dict)
    seconds: float | None = Field(default=None, description="wall time of the step, from its manifest")
    bytes: int | None = Field(default=None, description="size of its artifact")
    message: str = ""


class RunRecord(Config):
    """The content of the run file."""

    flow_run_id: str
    flow_run: str = Field(default="", description="its name in Prefect")
    page: str | None = Field(default=None, description="URL of its page in Prefect")
    started: str = Field(default="", description="UTC, ISO 8601")
    deployment: str | None = None
    recipe: str
    steps: tuple[StepRecord, ...] = ()
    state: RunStateName = "running"
    message: str = ""
    report: str | None = Field(default=None, description="location of the report's HTML page")
    forced: dict[str, int] = Field(default_factory=dict, description="spec hash -> attempt that this run asked for")


def closed(record: RunRecord, state: Literal["cancelled", "crashed"], message: str) -> RunRecord:
    """The record of a run that ended before its plan: its running steps get the same state. A closed record stays."""
    if record.state not in OPEN:
        return record
    steps = tuple(
        step.model_copy(update={"state": state, "message": message}) if step.state == "running" else step
        for step in record.steps
    )
    return record.model_copy(update={"state": state, "message": message, "steps": steps})


def run_path(flow_run_id: str) -> str:
    """The path of a flow run's file, relative to the store's root."""
    return f"runs/{flow_run_id}.json"


def write_run(store: ArtifactStore, record: RunRecord) -> None:
    """Write the file of a flow run."""
    store.write_json(run_path(record.flow_run_id), record.model_dump(mode="json"))


def begin_cancel(store: ArtifactStore, flow_run_id: str) -> None:
    """Mark a flow run as being cancelled, and log that once; the flow's own process may be alive and write its file."""
    if mark_cancel(store, flow_run_id):
        EventLog(store, flow_run_id).write("cancelling", message="the flow run is being cancelled")


def _with_mark(record: RunRecord, marked: bool) -> RunRecord:
    """The record as its mark makes it: a run that is being cancelled is not just running."""
    return record.model_copy(update={"state": "cancelling"}) if marked and record.state == "running" else record


def close_run(
    store: ArtifactStore, record: RunRecord, state: Literal["cancelled", "crashed"], message: str
) -> RunRecord:
    """Give the run file of a flow process that is gone its final state, if it has none, and log the events."""
    last = closed(record, state, message)
    write_run(store, last)
    _log(EventLog(store, record.flow_run_id), record, last)
    return last


def run_records(store: ArtifactStore) -> list[RunRecord]:
    """The records of all flow runs, the newest last. Files that are damaged or of another version are left out."""
    listed = files(store.fs, store.join("runs"), maxdepth=1)
    marked = {path.rpartition("/")[2].removesuffix(SUFFIX) for path in listed if path.endswith(SUFFIX)}
    found = []
    for content in read_each(store.fs, [path for path in listed if path.endswith(".json")]).values():
        try:
            record = RunRecord.model_validate_json(content)
        except ValueError:
            continue
        found.append(_with_mark(record, record.flow_run_id in marked))
    return sorted(found, key=lambda record: record.started)


def runs_of(store: ArtifactStore, artifact: str) -> list[tuple[RunRecord, StepRecord]]:
    """The runs whose job made an artifact of this id, or that followed such a job, each with its step; newest last."""
    followed = [(record, step) for record in run_records(store) for step in record.steps if step.id == artifact]
    return [(record, step) for record, step in followed if step.job is not None and step.state != "cached"]


class UnknownRunError(ConfigError):
    """The store has no file of a run."""


def find_run(store: ArtifactStore, wanted: str) -> RunRecord:
    """The run with this id (or as many of its first digits as are unique) or name; the newest for 'latest'.

    Raises UnknownRunError if there is none, ConfigError if there is more than one.
    """
    records = run_records(store)
    found = records[-1:] if wanted == "latest" else [r for r in records if wanted in (r.flow_run_id, r.flow_run)]
    found = found or [record for record in records if record.flow_run_id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{r.flow_run or r.flow_run_id} ({r.recipe}, {r.state})" for r in reversed(records[-5:]))
    if found:
        raise ConfigError(f"several runs are called '{wanted}' in {store.root}; the newest are: {known}; give an id")
    raise UnknownRunError(
        f"there is no run '{wanted}' in {store.root}; the newest are: {known or 'none'}; "
        "a run comes here when its process begins ('agevlm status')"
    )


def read_run(store: ArtifactStore, flow_run_id: str) -> RunRecord | None:
    """The record of a flow run, or None if it has none yet. Raises ConfigError if its file is damaged."""
    try:
        value = store.read_json(run_path(flow_run_id))
    except ValueError as error:  # empty or cut off, as a power cut leaves it
        raise ConfigError(f"the run file of {flow_run_id} is damaged: {error}") from error
    if value is None:
        return None
    record = validate(RunRecord, value, f"run file of {flow_run_id}")
    return _with_mark(record, record.state == "running" and is_marked(store, flow_run_id))


class RunFile:
    """The record of one flow run, shared by its threads and written through at each change."""

    def __init__(self, store: ArtifactStore, record: RunRecord) -> None:
        self._store, self._record, self._lock = store, record, threading.RLock()
        self._events = EventLog(store, record.flow_run_id)
        self._cancelled = False

    @classmethod
    def begin(
        cls,
        store: ArtifactStore,
        flow_run_id: str,
        recipe: str,
        deployment: str | None,
        parameters: dict[str, Any] | None = None,
        flow_run: str = "",
        page: str | None = None,
    ) -> "RunFile":
        """Start the record of a flow run; a retry keeps forced attempts. Raises ConfigError if its file is damaged."""
        earlier = read_run(store, flow_run_id)
        forced = earlier.forced if earlier is not None and earlier.recipe == recipe else {}
        about: dict[str, Any] = {"flow_run_id": flow_run_id, "flow_run": flow_run, "page": page}
        about |= {"deployment": deployment, "recipe": recipe}
        run = cls(store, RunRecord(**about, started=datetime.now(UTC).isoformat(), forced=forced))
        unmark(store, flow_run_id)
        run.update()
        run.event("run_start", **about, parameters=parameters or {})
        return run

    def event(self, event: str, step: str | None = None, **facts: Any) -> None:
        """Write an event that is no change of a state into the run's event log."""
        self._events.write(event, step, **facts)

    @property
    def record(self) -> RunRecord:
        """The present record. Never waits: a cancel needs it while a thread hangs in a write to the store."""
        return _with_mark(self._record, self._cancelled)

    def update(self, **changes: Any) -> None:
        """Change fields of the run and write it."""
        with self._lock:
            self._replace(self._record.model_copy(update=changes))

    def cancel(self) -> None:
        """Note that the run is being cancelled; later changes keep that. Raises OSError if the store refuses it."""
        self._cancelled = True
        begin_cancel(self._store, self._record.flow_run_id)

    def close(self, state: Literal["cancelled", "crashed"], message: str) -> None:
        """End the record of a run that ends before its plan does."""
        with self._lock:
            self._replace(closed(self._record, state, message))

    def set_plan(self, plan: Plan) -> None:
        """Enter every step as pending."""
        self.update(
            steps=tuple(
                StepRecord(key=s.key, id=s.id, kind=s.ref.kind, name=s.ref.name, unit=s.step.unit) for s in plan
            )
        )
        event, facts = _plan_event(plan)
        self.event(event, **facts)

    def step(self, key: str, **changes: Any) -> None:
        """Change fields of one step and write the run."""
        with self._lock:
            steps = tuple(s.model_copy(update=changes) if s.key == key else s for s in self._record.steps)
            self._replace(self._record.model_copy(update={"steps": steps}))

    def _replace(self, record: RunRecord) -> None:
        before, self._record = self._record, record
        write_run(self._store, self.record)
        _log(self._events, before, record)


def _log(events: EventLog, before: RunRecord, after: RunRecord) -> None:
    for event, facts in _changes(before, after):
        events.write(event, **facts)


def _changes(before: RunRecord, after: RunRecord) -> Iterator[tuple[str, Facts]]:
    """The events between two states of a run: its steps' new states, in the order of the plan, then its own."""
    known = {step.key: step.state for step in before.steps}
    for step in after.steps:
        if step.state != known.get(step.key, "pending"):
            yield from _step_events(step)
    if after.state == before.state:
        return
    if after.state not in OPEN:
        yield "run_end", {"state": after.state, "message": after.message, "report": after.report}


def _plan_event(plan: Plan) -> tuple[str, Facts]:
    """The event of a plan."""
    steps = [
        {
            "step": step.key,
            "id": step.id,
            "artifact": f"{step.ref.kind}/{step.ref.name}",
            "attempt": step.attempt,
            "needs": sorted(set(step.inputs.values())),
        }
        for step in plan
    ]
    return "plan", {"steps": steps}


def _step_events(step: StepRecord) -> Iterator[tuple[str, Facts]]:
    if step.state == "running":
        yield "step_start", {"step": step.key, "id": step.id}
    elif step.state in ("completed", "cached"):
        made = step.model_dump(include={"id", "job", "rows_in", "rows_out", "unit", "rejected", "seconds", "bytes"})
        name = "publish" if step.state == "completed" else "cached"
        yield name, {"step": step.key, "artifact": f"{step.kind}/{step.name}", **made}
    elif step.state == "failed":
        over = read_reject_limit(step.message)
        if over is not None:
            yield "reject_budget", {"step": step.key, **over}
        error, message = split_error(step.message)
        yield "failed", {"step": step.key, "job": step.job, "error": error, "message": message}
    elif step.state != "pending":
        yield step.state, {"step": step.key, "message": step.message}
