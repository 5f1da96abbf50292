"""What is said at the end of a run that was watched."""

import pytest

from flows.demo import _tell
from flows.flow_runs import FlowRun, FlowState
from flows.run_state import RunRecord, StepRecord
from flows.watch import View

RUN = FlowRun("run-1", "calm-otter", "agevlm/full-recipe")
STEP = StepRecord(key="one", id="a" * 64, kind="toy", name="one", unit="row")


def told(flow: FlowState, step: StepRecord, capsys: pytest.CaptureFixture[str], report: str | None = None) -> str:
    record = RunRecord(flow_run_id="run-1", recipe="tiny", steps=(step,), report=report)
    _tell(View(flow, record), RUN)
    return capsys.readouterr().out


def test_a_run_that_completed_ends_with_its_table_and_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    made = STEP.model_copy(update={"state": "completed", "rows_in": 3, "rows_out": 2, "rejected": {"odd": 1}})
    text = told(FlowState("COMPLETED", "Completed"), made, capsys, "/store/report.html")
    assert "3 in, 2 out (rows), 1 rejected (1 odd)" in text
    assert text.endswith("agevlm/full-recipe 'calm-otter': Completed\nreport   /store/report.html\n")


def test_a_step_that_failed_is_told_with_its_job_and_where_the_log_is(capsys: pytest.CaptureFixture[str]) -> None:
    failed = STEP.model_copy(update={"state": "failed", "job": "tiny-one-r1", "message": "StepError: odd"})
    text = told(FlowState("FAILED", "Failed", "failed: one"), failed, capsys)
    assert "one failed (job tiny-one-r1): StepError: odd" in text
    assert "prefect flow-run logs run-1" in text
    assert "goes on" not in text


@pytest.mark.parametrize("state", ["running", "crashed"])
def test_the_job_of_a_process_that_died_goes_on_and_the_user_is_told(
    state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    left = STEP.model_copy(update={"state": state, "job": "tiny-one-r1"})
    text = told(FlowState("CRASHED", "Crashed", "killed"), left, capsys)
    assert "one: its Ray job tiny-one-r1 goes on by itself; run the same again to join it" in text
