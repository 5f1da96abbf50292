"""The event log: writers in several processes, a torn line, an object store, and secrets."""

import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from flows.run.event_log import EventLog, events_path, follow_events, read_events
from pipeline.artifacts.store import ArtifactStore
from tests.fixtures_s3 import BUCKET, s3_in_environment

EACH = 20


def write_many(root: str, name: str) -> None:
    log = EventLog(ArtifactStore(root), "run-1")
    for number in range(EACH):
        log.write("step_start", name, number=number, filler="x" * 3000)


def check_all_there(store: ArtifactStore) -> None:
    events = read_events(store, "run-1")
    for name in ("a", "b"):
        assert [event["number"] for event in events if event["step"] == name] == list(range(EACH))


def test_two_processes_lose_and_mix_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(str(tmp_path), name)) for name in ("a", "b")]
    [writer.start() for writer in writers]
    [writer.join() for writer in writers]
    check_all_there(ArtifactStore(str(tmp_path)))


def test_two_writers_on_an_object_store_lose_nothing() -> None:
    with s3_in_environment():
        root = f"s3://{BUCKET}/store"
        writers = [threading.Thread(target=write_many, args=(root, name)) for name in ("a", "b")]
        [writer.start() for writer in writers]
        [writer.join() for writer in writers]
        check_all_there(ArtifactStore(root))
        assert read_events(ArtifactStore(root), "another run") == []


def test_a_torn_line_costs_itself_only(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    EventLog(store, "run-1").write("run_start")
    with open(store.join(events_path("run-1")), "ab") as stream:
        stream.write(b'{"time": "2026-01-01T00:00:00.000+00:00", "event": "subm')
    assert [event["event"] for event in read_events(store, "run-1")] == ["run_start"]
    later = EventLog(store, "run-1")  # the hook that notes the crash
    later.write("crashed", "a", message="the flow process died")
    later.write("run_end", state="crashed")
    assert [event["event"] for event in read_events(store, "run-1")] == ["run_start", "crashed", "run_end"]


def test_a_line_that_another_process_tore_later_costs_itself_only(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    log = EventLog(store, "run-1")
    log.write("run_start")
    with open(store.join(events_path("run-1")), "ab") as stream:
        stream.write(b'{"time": "2026')
    log.write("plan", steps=[])  # the same writer as before
    assert [event["event"] for event in read_events(store, "run-1")] == ["run_start", "plan"]


def test_a_full_disk_tears_a_line_and_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, write = ArtifactStore(str(tmp_path)), os.write
    log = EventLog(store, "run-1")
    with monkeypatch.context() as patch:
        patch.setattr("flows.run.event_log.os.write", lambda descriptor, content: write(descriptor, content[:20]))
        log.write("run_start")
    assert "the event 'run_start' was not written" in caplog.text
    log.write("plan", steps=[])
    assert [event["event"] for event in read_events(store, "run-1")] == ["plan"]


@pytest.mark.parametrize("error", [OSError("no"), RuntimeError("an object store's library"), ConnectionError()])
def test_no_error_of_a_store_reaches_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(EventLog, "_append", fail)
    EventLog(ArtifactStore(str(tmp_path)), "run-1").write("run_start")
    assert "was not written" in caplog.text


def test_a_follower_sees_each_event_once_and_ends_with_the_run(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    log = EventLog(store, "run-1")

    def work() -> None:
        for step in ("a", "b"):
            log.write("step_start", step)
            time.sleep(0.1)
        log.write("run_end", state="completed")

    writer = threading.Thread(target=work)
    writer.start()
    seen = [event.get("step", event["event"]) for event in follow_events(store, "run-1")]
    writer.join()
    assert seen == ["a", "b", "run_end"]


def test_a_follower_misses_nothing_of_a_machine_whose_clock_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an object store the names of events begin with the time of their writer."""
    store = ArtifactStore("memory://clocks")
    log = EventLog(store, "run-1")
    for number, name in enumerate(("run_start", "step_start", "submit")):
        monkeypatch.setattr(time, "time_ns", lambda number=number: 1000 + number)
        log.write(name)
    follower = follow_events(store, "run-1")
    seen = [next(follower)["event"] for _ in range(3)]
    monkeypatch.setattr(time, "time_ns", lambda: 1001)
    log.write("run_end", state="cancelled")
    monkeypatch.setattr("flows.run.event_log.REMOTE_POLL_SECONDS", 0.01)
    assert [*seen, *(event["event"] for event in follower)] == ["run_start", "step_start", "submit", "run_end"]


def test_secrets_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, key = "0123456789abcdef" * 4, "wJalrXUtnFEMI/K7MDENG"
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", f"admin:{secret}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path))
    log = EventLog(ArtifactStore(str(tmp_path)), "run-1")
    log.write("failed", "a", message=f"401 for admin:{secret} at {tmp_path}", parameters={"deep": [f"key {key}"]})
    log.write("failed", "a", message="cannot read s3://me:pass-word@host/bucket")
    text = Path(tmp_path / events_path("run-1")).read_text()
    assert secret not in text
    assert key not in text
    assert "pass-word" not in text
    assert f"401 for *** at {tmp_path}" in text
    assert "s3://***@host/bucket" in text


def test_a_store_that_refuses_an_event_fails_no_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    EventLog(ArtifactStore(str(tmp_path)), "run-1").write("run_start")
    assert "the event 'run_start' was not written" in caplog.text


def test_every_line_is_json_with_time_and_name(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    EventLog(store, "run-1").write("failed", "a", message='two\nlines and "quotes"')
    (line,) = Path(store.join(events_path("run-1"))).read_text().splitlines()
    event = json.loads(line)
    assert list(event) == ["time", "event", "step", "message"]
