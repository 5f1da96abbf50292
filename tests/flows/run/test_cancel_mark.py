"""The mark of a cancel: whatever the flow's own process writes, every reader knows that the run is being cancelled."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.run.cancel_mark import is_marked, mark_cancel
from flows.run.event_log import read_events
from flows.run.ray_jobs import Job
from flows.run.run_file import OPEN, RunFile, begin_cancel, close_run, find_run, read_run, run_records
from flows.run.shared_jobs import followed_by_others, stop_job
from pipeline.artifacts.contents import contents
from pipeline.artifacts.gc import Judge, Needs, Rules
from pipeline.artifacts.store import ArtifactStore
from tests.fixtures_s3 import BUCKET, s3_in_environment
from tests.flows.fixtures_fake_ray import CHAIN, FakeRay


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_in_environment():
        yield f"s3://{BUCKET}/marks"


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    root = str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    return ArtifactStore(root)


def begin(store: ArtifactStore, flow_run_id: str) -> RunFile:
    run = RunFile.begin(store, flow_run_id, "tiny", None)
    run.set_plan(CHAIN)
    run.step("b", state="running", job="shared")
    return run


def state_of(store: ArtifactStore, flow_run_id: str) -> str:
    record = read_run(store, flow_run_id)
    assert record is not None
    assert [each.state for each in run_records(store) if each.flow_run_id == flow_run_id] == [record.state]
    return record.state


def test_a_living_flow_process_cannot_take_a_cancel_back(store: ArtifactStore) -> None:
    run = begin(store, "run-1")
    assert state_of(store, "run-1") == "running"
    begin_cancel(store, "run-1")  # as the hook does, in another process
    run.step("a", rows_in=3)  # the flow's process, which knows of nothing
    assert state_of(store, "run-1") == "cancelling"
    assert find_run(store, "latest").state == "cancelling"
    run.update(state="completed", message="done")
    assert state_of(store, "run-1") == "completed"


def test_of_two_runs_that_are_cancelled_the_later_stops_their_job_although_the_first_writes_on(
    store: ArtifactStore,
) -> None:
    first, second = begin(store, "run-1"), begin(store, "run-2")
    ray = FakeRay()
    ray.known = {"shared": Job("shared", "running", {"flow_run_id": "run-1"})}
    begin_cancel(store, "run-1")
    first.step("a", rows_in=1)
    stop_job(ray, store, "shared", "run-1", lambda line: None)
    assert ray.stopped == [], "the second run waits for it"
    second.cancel()
    first.step("a", rows_in=2)
    assert followed_by_others(store, "shared", "run-2") == []
    stop_job(ray, store, "shared", "run-2", lambda line: None)
    assert ray.stopped == ["shared"]


def test_the_cancel_is_one_event_whoever_marks_it(store: ArtifactStore) -> None:
    run = begin(store, "run-1")
    threads = [threading.Thread(target=begin_cancel, args=(store, "run-1")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.cancel()
    assert run.record.state == "cancelling"
    run.close("cancelled", "stopped")
    record = read_run(store, "run-1")
    assert record is not None
    close_run(store, record, "cancelled", "the hook, later")
    events = [event["event"] for event in read_events(store, "run-1")]
    assert events == ["run_start", "plan", "step_start", "cancelling", "cancelled", "run_end"]


def test_a_retry_of_the_same_flow_run_begins_without_the_mark(store: ArtifactStore) -> None:
    begin(store, "run-1").cancel()
    begin(store, "run-1")
    assert not is_marked(store, "run-1")
    assert state_of(store, "run-1") == "running"
    assert mark_cancel(store, "run-1")
    assert not mark_cancel(store, "run-1")


WRITER = """
import sys
from flows.run.run_file import RunFile
from pipeline.artifacts.store import ArtifactStore
run = RunFile.begin(ArtifactStore(sys.argv[1]), "run-1", "tiny", None)
print("begun", flush=True)
number = 0
while True:
    run.update(message=str(number))
    number += 1
"""


def test_a_cancel_by_another_process_holds_at_every_moment(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        begin_cancel(store, "run-1")
        states, messages = set(), set()
        while len(messages) < 20:
            record = read_run(store, "run-1")
            assert record is not None
            states.add(record.state)
            messages.add(record.message)
        writer.kill()
    assert states == {"cancelling"}


def test_gc_keeps_the_mark_of_an_open_run_and_removes_it_with_the_run_file(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    begin(store, "run-1").cancel()
    assert state_of(store, "run-1") in OPEN
    things = [thing for thing in contents(store) if thing.path.startswith("runs/")]
    assert {thing.path for thing in things} == {"runs/run-1.json", "runs/run-1.events.jsonl", "runs/run-1.cancel"}
    assert {(thing.what, thing.id) for thing in things} == {("run file", "run-1")}
    later = max(thing.changed for thing in things) + 90 * 86_400
    opened = Judge(things, Needs(open_runs=frozenset({"run-1"})), Rules(), later)
    assert all(verdict.keep for verdict in opened.verdicts())
    assert not any(verdict.keep for verdict in Judge(things, Needs(), Rules(), later).verdicts())
