"""The run file: its content, threads that write it at once, and a retry of the same flow run."""

import threading
from pathlib import Path

from flows.run.run_file import RunFile, read_run
from tests.flows.fixtures_fake_ray import CHAIN, begin_run


def test_the_file_holds_what_a_watcher_needs(tmp_path: Path) -> None:
    store, run = begin_run(tmp_path)
    run.step("a", state="running", job="tiny-a-r1")
    value = store.read_json("runs/run-1.json")
    assert value is not None
    assert value["deployment"] == "agevlm/full-recipe"
    assert value["state"] == "running"
    assert value["steps"][0] == {
        "key": "a",
        "id": CHAIN["a"].id,
        "kind": "toy",
        "name": "a",
        "state": "running",
        "job": "tiny-a-r1",
        "rows_in": None,
        "rows_out": None,
        "unit": "row",
        "rejected": {},
        "seconds": None,
        "message": "",
    }


def test_threads_lose_no_change(tmp_path: Path) -> None:
    store, run = begin_run(tmp_path)
    threads = [
        threading.Thread(target=lambda key=key: [run.step(key, rows_in=n) for n in range(40)]) for key in ("a", "b")
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    record = read_run(store, "run-1")
    assert record is not None
    assert [step.rows_in for step in record.steps] == [39, 39, None]


def test_a_retry_remembers_what_was_forced_and_nothing_else(tmp_path: Path) -> None:
    store, run = begin_run(tmp_path)
    run.update(forced={"spec": 1}, state="failed", message="boom", report="x.html")
    RunFile.begin(store, "run-1", "tiny", None)
    record = read_run(store, "run-1")
    assert record is not None
    assert (record.forced, record.state, record.message, record.report) == ({"spec": 1}, "running", "", None)
