"""Following a run: its exit code, Ctrl-C, and the lines at its end."""

from pathlib import Path

import pytest

from flows.cli import flow_runs, follow, watch
from flows.cli.flow_runs import FlowRun, FlowState
from flows.cli.watch import RunSnapshot
from flows.run.run_file import RunRecord, StepRecord, run_path
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.recipe import load_recipe
from tests.flows.cli.fixtures_runs import API, RUN, RUNNING, flow_states, record, step

FOLLOWED = FlowRun("run-1", "calm-otter", "agevlm/full-recipe")
STEP = StepRecord(key="one", id="a" * 64, kind="toy", name="one", unit="row")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch, "STATE_SECONDS", 0.0)
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path))


def printed(flow: FlowState, step: StepRecord, capsys: pytest.CaptureFixture[str], report: str | None = None) -> str:
    record = RunRecord(flow_run_id="run-1", recipe="tiny", steps=(step,), report=report)
    follow.print_end(RunSnapshot(flow, record), FOLLOWED)
    return capsys.readouterr().out


def test_a_run_that_completed_ends_with_its_table_and_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    made = STEP.model_copy(update={"state": "completed", "rows_in": 3, "rows_out": 2, "rejected": {"odd": 1}})
    text = printed(FlowState("COMPLETED", "Completed"), made, capsys, "/store/report.html")
    assert "3 in, 2 out (rows), 1 rejected (1 odd)" in text
    assert text.endswith("agevlm/full-recipe 'calm-otter': Completed\nreport   /store/report.html\n")


def test_the_report_is_named_by_its_short_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report" / "tiny" / "abc" / "data-1" / "report.html"
    page.parent.mkdir(parents=True)
    page.touch()
    latest = tmp_path / "report" / "tiny" / "latest"
    latest.symlink_to("abc/data-1")
    text = printed(FlowState("COMPLETED", "Completed"), STEP, capsys, str(page))
    assert text.endswith(f"report   {latest}/report.html\n")


def test_a_step_that_failed_is_named_with_its_job_and_the_place_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    failed = STEP.model_copy(update={"state": "failed", "job": "tiny-one-r1", "message": "StepError: odd"})
    text = printed(FlowState("FAILED", "Failed", "failed: one"), failed, capsys)
    assert "one failed (job tiny-one-r1): StepError: odd" in text
    assert "prefect flow-run logs run-1" in text
    assert "goes on" not in text


@pytest.mark.parametrize("state", ["running", "crashed"])
def test_the_user_is_told_that_the_job_of_a_dead_process_goes_on(
    state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    left = STEP.model_copy(update={"state": state, "job": "tiny-one-r1"})
    text = printed(FlowState("CRASHED", "Crashed", "killed"), left, capsys)
    assert "one: its Ray job tiny-one-r1 goes on by itself; run the same again to join it" in text


@pytest.mark.parametrize(("final", "code"), [("COMPLETED", 0), ("FAILED", 1), ("CRASHED", 1), ("CANCELLED", 1)])
def test_the_exit_code_follows_the_flow(
    final: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flow_states(monkeypatch, [FlowState(final, final.title(), "why it ended")])
    steps = (step("a", "completed", rows_in=1, rows_out=1, seconds=1.0), step("b", "failed", message="it broke"))
    ArtifactStore(str(tmp_path)).write_json(
        run_path("r1"), record(*steps, report="/store/report.html").model_dump(mode="json")
    )
    assert follow.follow(API, "", RUN, lambda line: None, cancel=True) == code
    shown = capsys.readouterr().out
    assert "/store/report.html" in shown
    assert "aaaaaaaa" in shown
    assert ("it broke" in shown and "why it ended" in shown) or code == 0


def test_ctrl_c_cancels_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    flow_states(monkeypatch, [RUNNING, KeyboardInterrupt(), RUNNING, FlowState("CANCELLED", "Cancelled")])
    cancelled: list[str] = []
    monkeypatch.setattr(flow_runs, "cancel", lambda state, run: cancelled.append(run))
    said: list[str] = []
    assert follow.follow(API, "", RUN, said.append, cancel=True) == 130
    assert cancelled == ["r1"]
    assert said[-1] == "cancelled"


def test_ctrl_c_of_a_mere_watcher_cancels_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    flow_states(monkeypatch, [KeyboardInterrupt()])
    monkeypatch.setattr(flow_runs, "cancel", lambda state, run: pytest.fail("cancelled"))
    said: list[str] = []
    assert follow.follow(API, "", RUN, said.append, cancel=False) == 130
    assert "the run goes on" in said[-1]


@pytest.mark.parametrize(
    ("minutes", "gib", "words"),
    [
        (8.0, 0.5, "about 8 minutes and 0.5 GiB of disk on 2 CPU cores; "),
        (8.5, None, "about 8.5 minutes on 2 CPU cores; "),
        (None, None, ""),
    ],
)
def test_the_demo_says_how_long_it_will_take(minutes: float | None, gib: float | None, words: str) -> None:
    recipe = load_recipe("miniature").model_copy(update={"expected_minutes": minutes, "expected_gib": gib})
    line = follow.expected(recipe)
    assert line.startswith(words)
    assert bool(line) == bool(words)
