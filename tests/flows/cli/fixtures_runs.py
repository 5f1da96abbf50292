"""A flow run of the local stack, its steps and its states."""

from typing import Any

from flows.cli.flow_runs import FlowRun, FlowState
from flows.run.run_file import RunRecord, StepRecord
from infra.local.stack_file import StackState

RUN = FlowRun("r1", "calm-otter", "agevlm/full-recipe")
STATE = StackState(id="x", ports={"prefect": 1, "ray_dashboard": 2})
RUNNING, COMPLETED = FlowState("RUNNING", "Running"), FlowState("COMPLETED", "Completed")


def step(key: str, state: str = "pending", **values: Any) -> StepRecord:
    return StepRecord.model_validate(
        {"key": key, "id": key * 8, "kind": "masks", "name": key, "unit": "query", "state": state, **values}
    )


def record(*steps: StepRecord, **values: Any) -> RunRecord:
    return RunRecord(flow_run_id="r1", recipe="miniature", steps=steps, **values)
