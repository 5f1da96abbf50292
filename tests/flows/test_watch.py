"""What a watcher says of a run while it goes on, and when it is over."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows import demo, watch
from flows.flow_runs import FlowRun, FlowState
from flows.run_state import RunRecord, StepRecord, run_path
from flows.screen import final_table, live_table, visible
from flows.state import StackError, StackState
from flows.watch import Lines, View, Watcher, outcome_text
from pipeline.artifacts.store import ArtifactStore
from pipeline.progress import progress_path, progress_text

RUN = FlowRun("r1", "calm-otter", "agevlm/full-recipe")
STATE = StackState(id="x", ports={"prefect": 1, "ray_dashboard": 2})
RUNNING, COMPLETED = FlowState("RUNNING", "Running"), FlowState("COMPLETED", "Completed")


def step(key: str, state: str = "pending", **values: Any) -> StepRecord:
    return StepRecord.model_validate(
        {"key": key, "id": key * 8, "kind": "masks", "name": key, "unit": "query", "state": state, **values}
    )


def record(*steps: StepRecord, **values: Any) -> RunRecord:
    return RunRecord(flow_run_id="r1", recipe="miniature", steps=steps, **values)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch, "STATE_SECONDS", 0.0)


def flow_states(monkeypatch: pytest.MonkeyPatch, states: Iterator[FlowState]) -> None:
    monkeypatch.setattr(watch.flow_runs, "flow_state", lambda state, run: next(states))


def test_lines_tell_every_change_once() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    first = record(step("a", "running"), step("b"))
    lines.show(View(RUNNING, first, {"a": {"done": 1, "total": 4, "unit": "query", "values": {}}}, seconds=1))
    lines.show(View(RUNNING, first, seconds=2))
    busy = {"a": {"done": 3, "total": 4, "unit": "query", "values": {"loss": 0.25}}}
    lines.show(View(RUNNING, first, busy, seconds=20))
    done = step("a", "completed", rows_in=4, rows_out=3, rejected={"no_region": 1}, seconds=3.25)
    lines.show(View(COMPLETED, record(done, step("b", "failed", message="it broke")), seconds=21))
    assert [" ".join(line.split()) for line in said] == [
        "flow run: Running",
        "a running",
        "a 3/4 queries loss 0.25",
        "flow run: Completed",
        "a completed: 4 in, 3 out (queries), 1 rejected (1 no_region), 3.2 s",
        "b failed: it broke",
    ]


def test_progress_and_outcome_in_words() -> None:
    assert progress_text(None) == ""
    assert progress_text({"done": 5, "total": 9, "unit": "sample", "values": {"loss": 1.23456}}) == (
        "5/9 samples  loss 1.235"
    )
    assert outcome_text(step("a", "cached", rows_in=2, rows_out=2)) == "2 in, 2 out (queries)"
    assert outcome_text(step("a", "skipped", message="masks failed")) == "masks failed"


def test_a_watcher_follows_until_the_flow_is_over(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    flow_states(monkeypatch, iter([FlowState("PENDING", "Pending"), RUNNING, COMPLETED]))
    store.write_json(run_path("r1"), record(step("a", "running")).model_dump(mode="json"))
    store.write_json(progress_path("a" * 8), {"done": 2, "total": 4, "unit": "query", "values": {}})
    views: list[View] = []

    class Screen:
        closed = 0

        def show(self, view: View) -> None:
            views.append(view)

        def close(self) -> None:
            Screen.closed += 1

    last = Watcher(STATE, store, RUN).follow(Screen())
    assert [view.flow.name for view in views] == ["Pending", "Running", "Completed"]
    assert last.progress["a"]["done"] == 2
    assert last.since["a"] >= 0
    assert Screen.closed == 1


def test_a_flow_that_never_plans_is_followed_too(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    flow_states(monkeypatch, iter([FlowState("CRASHED", "Crashed", "no module named x")]))
    last = Watcher(STATE, store, RUN).follow(Lines(lambda line: None))
    assert last.record is None
    assert last.steps == ()


def test_a_short_absence_of_the_server_is_borne(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([OSError("refused"), OSError("refused"), COMPLETED])

    def answer(state: StackState, run: str) -> FlowState:
        value = next(answers)
        if isinstance(value, OSError):
            raise value
        return value

    monkeypatch.setattr(watch.flow_runs, "flow_state", answer)
    assert Watcher(STATE, store, RUN).follow(Lines(lambda line: None)).flow == COMPLETED


def test_a_long_absence_of_the_server_ends_the_watching(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(state: StackState, run: str) -> FlowState:
        raise OSError("refused")

    monkeypatch.setattr(watch.flow_runs, "flow_state", answer)
    monkeypatch.setattr(watch, "LOST_SECONDS", 0.05)
    with pytest.raises(StackError, match="agevlm status"):
        Watcher(STATE, store, RUN).follow(Lines(lambda line: None))


@pytest.mark.parametrize(("final", "code"), [("COMPLETED", 0), ("FAILED", 1), ("CRASHED", 1), ("CANCELLED", 1)])
def test_the_exit_code_follows_the_flow(
    final: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path))
    flow_states(monkeypatch, iter([FlowState(final, final.title(), "why it ended")]))
    steps = (step("a", "completed", rows_in=1, rows_out=1, seconds=1.0), step("b", "failed", message="it broke"))
    ArtifactStore(str(tmp_path)).write_json(
        run_path("r1"), record(*steps, report="/store/report.html").model_dump(mode="json")
    )
    assert demo.watch(STATE, RUN, lambda line: None, cancel=True) == code
    shown = capsys.readouterr().out
    assert "/store/report.html" in shown
    assert "aaaaaaaa" in shown
    assert ("it broke" in shown and "why it ended" in shown) or code == 0


def test_ctrl_c_cancels_and_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path))
    cancelled: list[str] = []
    answers = iter([RUNNING, KeyboardInterrupt(), RUNNING, FlowState("CANCELLED", "Cancelled")])

    def answer(state: StackState, run: str) -> FlowState:
        value = next(answers)
        if isinstance(value, KeyboardInterrupt):
            raise value
        return value

    monkeypatch.setattr(watch.flow_runs, "flow_state", answer)
    monkeypatch.setattr(watch.flow_runs, "cancel", lambda state, run: cancelled.append(run))
    said: list[str] = []
    assert demo.watch(STATE, RUN, said.append, cancel=True) == 130
    assert cancelled == ["r1"]
    assert said[-1] == "cancelled"


def test_ctrl_c_of_a_mere_watcher_cancels_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path))

    def answer(state: StackState, run: str) -> FlowState:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.flow_runs, "flow_state", answer)
    monkeypatch.setattr(watch.flow_runs, "cancel", lambda state, run: pytest.fail("cancelled"))
    said: list[str] = []
    assert demo.watch(STATE, RUN, said.append, cancel=False) == 130
    assert "the run goes on" in said[-1]


def test_a_small_terminal_shows_what_runs() -> None:
    steps = tuple(step(f"s{i}", "completed" if i < 10 else "running" if i == 10 else "pending") for i in range(22))
    shown = visible(steps, 6)
    assert len(shown) == 6
    assert steps[10] in shown
    assert visible(steps, 22) == steps
    assert visible(steps[:10], 4) == steps[6:10]  # all are done: the last ones


def test_tables_hold_ids_states_rows_and_times() -> None:
    done = step("segment-pretrain", "completed", rows_in=240, rows_out=233, rejected={"no_region": 7}, seconds=41.0)
    view = View(RUNNING, record(done, step("masks", "running")), {"masks": {"done": 1, "total": 2}}, {"masks": 3.0}, 50)
    out = Console(file=io.StringIO(), width=140)
    out.print(final_table(view))
    out.print(live_table(view, 30))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    for words in ("segment-pretrain", "segment-pret ", "completed", "240 in, 233 out", "7 no_region", "41 s"):
        assert words in text
    assert "1 of 2 steps" in text
    assert "1/2 rows" in text
