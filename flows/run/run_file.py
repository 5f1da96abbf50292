"""The run file: the state of a flow run and of its steps, one small JSON object in the store, rewritten at each change.

`agevlm run --watch` reads it, the cancellation hook (another process) finds the jobs to stop in it, and a retry of the
same flow run reads the attempts that were forced already.
"""

import threading
from typing import Any, Literal

from pydantic import Field

from model.errors import ConfigError
from pipeline.artifacts.store import ArtifactStore
from pipeline.config import Config, validate
from pipeline.plan.planner import Plan

StepState = Literal["pending", "running", "cached", "completed", "failed", "cancelled", "crashed", "skipped"]
RunStateName = Literal["running", "cancelling", "completed", "failed", "cancelled", "crashed"]
OPEN: frozenset[str] = frozenset({"running", "cancelling"})
"""States of a run that is not over; 'cancelling' is left to the cancellation hook."""


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
    message: str = ""


class RunRecord(Config):
    """The content of the run file."""

    flow_run_id: str
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


def read_run(store: ArtifactStore, flow_run_id: str) -> RunRecord | None:
    """The record of a flow run, or None if it has none yet. Raises ConfigError if its file is damaged."""
    try:
        value = store.read_json(run_path(flow_run_id))
    except ValueError as error:  # empty or cut off, as a power cut leaves it
        raise ConfigError(f"the run file of {flow_run_id} is damaged: {error}") from error
    return None if value is None else validate(RunRecord, value, f"run file of {flow_run_id}")


class RunFile:
    """The record of one flow run, shared by its threads and written through at each change."""

    def __init__(self, store: ArtifactStore, record: RunRecord) -> None:
        self._store, self._record, self._lock = store, record, threading.RLock()

    @classmethod
    def begin(cls, store: ArtifactStore, flow_run_id: str, recipe: str, deployment: str | None) -> "RunFile":
        """Start the record of a flow run; a retry keeps forced attempts. Raises ConfigError if its file is damaged."""
        earlier = read_run(store, flow_run_id)
        forced = earlier.forced if earlier is not None and earlier.recipe == recipe else {}
        run = cls(store, RunRecord(flow_run_id=flow_run_id, recipe=recipe, deployment=deployment, forced=forced))
        run.update()
        return run

    @property
    def record(self) -> RunRecord:
        """The present record."""
        with self._lock:
            return self._record

    def update(self, **changes: Any) -> None:
        """Change fields of the run and write it."""
        with self._lock:
            self._record = self._record.model_copy(update=changes)
            self._write()

    def close(self, state: Literal["cancelled", "crashed"], message: str) -> None:
        """End the record of a run that ends before its plan does."""
        with self._lock:
            self._record = closed(self._record, state, message)
            self._write()

    def set_plan(self, plan: Plan) -> None:
        """Enter every step as pending."""
        self.update(
            steps=tuple(
                StepRecord(key=s.key, id=s.id, kind=s.ref.kind, name=s.ref.name, unit=s.step.unit) for s in plan
            )
        )

    def step(self, key: str, **changes: Any) -> None:
        """Change fields of one step and write the run."""
        with self._lock:
            steps = tuple(s.model_copy(update=changes) if s.key == key else s for s in self._record.steps)
            self._record = self._record.model_copy(update={"steps": steps})
            self._write()

    def _write(self) -> None:
        write_run(self._store, self._record)
