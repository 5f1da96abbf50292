"""A watcher follows a run to its end and prints its changes."""

from pathlib import Path

import pytest

from flows.cli import flow_runs, watch
from flows.cli.flow_runs import FlowState
from flows.cli.watch import LineDisplay, RunSnapshot, Watcher, outcome_text
from flows.run.run_file import run_path
from infra.local.stack_file import StackError
from infra.local.web import Server
from pipeline.artifacts.progress import progress_path, progress_text
from pipeline.artifacts.store import ArtifactStore
from tests.flows.cli.fixtures_runs import API, COMPLETED, RUN, RUNNING, flow_states, record, step


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch, "STATE_SECONDS", 0.0)


def test_lines_tell_every_change_once() -> None:
    said: list[str] = []
    lines = LineDisplay(said.append)
    first = record(step("a", "running"), step("b"))
    lines.show(RunSnapshot(RUNNING, first, {"a": {"done": 1, "total": 4, "unit": "query", "values": {}}}, seconds=1))
    lines.show(RunSnapshot(RUNNING, first, seconds=2))
    busy = {"a": {"done": 3, "total": 4, "unit": "query", "values": {"loss": 0.25}}}
    lines.show(RunSnapshot(RUNNING, first, busy, seconds=20))
    done = step("a", "completed", rows_in=4, rows_out=3, rejected={"no_region": 1}, seconds=3.25)
    lines.show(RunSnapshot(COMPLETED, record(done, step("b", "failed", message="it broke")), seconds=21))
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
    flow_states(monkeypatch, [FlowState("PENDING", "Pending"), RUNNING, COMPLETED])
    store.write_json(run_path("r1"), record(step("a", "running")).model_dump(mode="json"))
    store.write_json(progress_path("a" * 8), {"done": 2, "total": 4, "unit": "query", "values": {}})
    snapshots: list[RunSnapshot] = []

    class Display:
        closed = 0

        def show(self, snapshot: RunSnapshot) -> None:
            snapshots.append(snapshot)

        def close(self) -> None:
            Display.closed += 1

    last = Watcher(API, store, RUN).follow(Display())
    assert [snapshot.flow.name for snapshot in snapshots] == ["Pending", "Running", "Completed"]
    assert last.progress["a"]["done"] == 2
    assert last.since["a"] >= 0
    assert Display.closed == 1


def test_a_flow_that_never_plans_is_followed_too(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    flow_states(monkeypatch, [FlowState("CRASHED", "Crashed", "no module named x")])
    last = Watcher(API, store, RUN).follow(LineDisplay(lambda line: None))
    assert last.record is None
    assert last.steps == ()


def test_the_server_may_be_away_for_a_while(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    flow_states(monkeypatch, [OSError("refused"), OSError("refused"), COMPLETED])
    assert Watcher(API, store, RUN).follow(LineDisplay(lambda line: None)).flow == COMPLETED


def test_a_long_absence_of_the_server_ends_the_watching(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(api: Server, run: str) -> FlowState:
        raise OSError("refused")

    monkeypatch.setattr(flow_runs, "flow_state", answer)
    monkeypatch.setattr(watch, "LOST_SECONDS", 0.05)
    with pytest.raises(StackError, match="agevlm status"):
        Watcher(API, store, RUN).follow(LineDisplay(lambda line: None))
