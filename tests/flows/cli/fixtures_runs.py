"""A flow run of the local stack, its steps and its states."""

from collections.abc import Iterable
from typing import Any

import pytest

from flows.cli import flow_runs
from flows.cli.flow_runs import FlowRun, FlowState
from flows.run.run_file import RunRecord, StepRecord
from infra.local.web import Server

RUN = FlowRun("r1", "calm-otter", "agevlm/full-recipe")
API = Server("http://127.0.0.1:1/api")
RUNNING, COMPLETED = FlowState("RUNNING", "Running"), FlowState("COMPLETED", "Completed")


def step(key: str, state: str = "pending", **values: Any) -> StepRecord:
    return StepRecord.model_validate(
        {"key": key, "id": key * 8, "kind": "masks", "name": key, "unit": "query", "state": state, **values}
    )


def record(*steps: StepRecord, **values: Any) -> RunRecord:
    return RunRecord(flow_run_id="r1", recipe="miniature", steps=steps, **values)


def flow_states(monkeypatch: pytest.MonkeyPatch, states: Iterable[FlowState | BaseException]) -> None:
    """Let Prefect answer with these states, one after the other; an exception is raised instead."""
    left = iter(states)

    def answer(api: Server, run: str) -> FlowState:
        value = next(left)
        if isinstance(value, BaseException):
            raise value
        return value

    monkeypatch.setattr(flow_runs, "flow_state", answer)
