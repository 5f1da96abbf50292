"""agevlm events, and the runs that `agevlm show` lists."""

import json
import threading
import time
from pathlib import Path

import pytest

from flows.cli.commands import events
from flows.run import event_log
from flows.run.event_log import EventLog
from flows.run.run_file import RunFile, RunStateName, begin_cancel
from pipeline.artifacts.manifest import Origin
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.job import job_of
from pipeline.steps import runner
from tests.flows.cli.fixtures_command_line import agevlm
from tests.flows.fixtures_fake_ray import CHAIN
from tests.pipeline.plan.fixtures_toy_steps import STEP, toy_locations


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path))
    monkeypatch.delenv("AGEVLM_STORE", raising=False)
    return ArtifactStore(str(tmp_path / "artifacts"))


def begin(store: ArtifactStore, number: int, name: str) -> RunFile:
    run = RunFile.begin(store, f"id-{number}", "tiny", None, {"limit": 8}, name, f"http://prefect.test/{name}")
    run.set_plan(CHAIN)
    return run


def test_the_events_of_a_run_are_printed_for_people_and_as_json(store: ArtifactStore) -> None:
    run = begin(store, 1, "brave-owl")
    run.step("a", state="running")
    run.update(state="completed", message="1 made")
    shown = agevlm("events")
    assert shown.code == 0
    assert [line.split()[1] for line in shown.output.splitlines()] == ["run_start", "plan", "step_start", "run_end"]
    assert "parameters=limit:8" in shown.output
    lines = agevlm("events", "brave-owl", "--json").output.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["run_start", "plan", "step_start", "run_end"]
    assert agevlm("events", "id-1", "--follow").code == 0


def test_following_a_run_that_fails_fails(store: ArtifactStore) -> None:
    begin(store, 1, "brave-owl").update(state="failed", message="failed: a")
    assert agevlm("events", "--follow").code == 1
    assert agevlm("events").code == 0


def test_texts_of_events_move_no_cursor(store: ArtifactStore) -> None:
    run = begin(store, 1, "brave-\x1b[31mowl")
    run.event("retry\x1b[1m\n", step="a\x1b[5m", cause={"k\x07": ["\x9b2J", "\u202e"]})
    run.update(state="failed", message="\x1b]0;title\x07\rover")
    shown = agevlm("events").output
    assert len(shown.splitlines()) == 4
    assert all(line.isprintable() for line in shown.splitlines())


def test_following_ends_after_a_cancel_that_came_too_late(store: ArtifactStore) -> None:
    """The cancellation hook may write its event just after the run's own process wrote the last one."""
    begin(store, 1, "brave-owl").update(state="completed", message="1 made")
    begin_cancel(store, "id-1")
    shown = agevlm("events", "--follow")
    assert (shown.code, shown.output.splitlines()[-1].split()[1]) == (0, "cancelling")


@pytest.mark.parametrize(("state", "code"), [("completed", 0), ("failed", 1)])
def test_following_ends_with_the_run_if_its_last_event_was_lost(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, state: RunStateName, code: int
) -> None:
    monkeypatch.setattr(event_log, "POLL_SECONDS", 0.01)
    run = begin(store, 1, "brave-owl")
    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "_append", lambda *_: None)  # as on a full disk
        run.update(state=state)
    shown = agevlm("events", "--follow", "--json")
    assert (shown.code, len(shown.output.splitlines())) == (code, 2)


def test_an_unknown_run_is_named_with_the_newest(store: ArtifactStore) -> None:
    assert "there is no run 'latest'" in agevlm("events").error
    begin(store, 1, "brave-owl")
    assert "the newest are: brave-owl (tiny, running)" in agevlm("events", "calm-fox").error


def test_following_waits_for_a_run_to_begin(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """`agevlm run` prints a run's name some seconds before the run's process begins."""
    monkeypatch.setattr(events, "POLL_SECONDS", 0.01)
    begin(store, 1, "old-run").update(state="completed")

    def later() -> None:
        time.sleep(0.2)
        begin(store, 2, "brave-owl").update(state="failed", message="failed: a")

    thread = threading.Thread(target=later)
    thread.start()
    shown = agevlm("events", "brave-owl", "--follow")
    thread.join()
    assert (shown.code, shown.error) == (1, "waiting for the run 'brave-owl' to begin\n")
    assert "flow_run=brave-owl" in shown.output
    monkeypatch.setattr(events, "START_SECONDS", 0.0)
    assert "there is no run 'calm-fox'" in agevlm("events", "calm-fox", "--follow").error


def test_show_lists_the_job_and_the_run_that_made_it_and_the_runs_that_followed(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(runner.STEPS, "toy", STEP)
    origin = Origin(
        flow_run_id="id-1",
        flow_run="brave-owl",
        deployment="agevlm/full-recipe",
        flow_run_page="http://prefect.test/brave-owl",
        job_page="http://ray.test/#/jobs/tiny-a-r1",
    )
    job = job_of(CHAIN["a"], CHAIN, toy_locations(Path(store.root)))
    runner.run_job(job.model_copy(update={"submission_id": "tiny-a-r1", "origin": origin}))
    for number, name in enumerate(("brave-owl", "calm-fox")):
        begin(store, number, name).step("a", state="completed", job="tiny-a-r1")
    begin(store, 3, "swift-cat").step("a", state="cached", job="tiny-a-r1")
    shown = agevlm("show", CHAIN["a"].id[:12]).output
    assert "tiny-a-r1  http://ray.test/#/jobs/tiny-a-r1" in shown
    assert "brave-owl  http://prefect.test/brave-owl  (agevlm/full-recipe)" in shown
    followers = shown.split("flow runs that started its job or followed it")[1]
    assert [name for name in ("brave-owl", "calm-fox", "swift-cat") if name in followers] == ["brave-owl", "calm-fox"]
