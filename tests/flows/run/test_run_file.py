"""The run file: its content, threads that write it at once, and a retry of the same flow run."""

import threading
from pathlib import Path
from typing import Literal

import pytest

from flows.run.event_log import read_events
from flows.run.events import EVENTS, faults, line_of
from flows.run.run_file import RunFile, close_run, find_run, read_run
from model.errors import ConfigError, DataError
from pipeline.artifacts.store import ArtifactStore
from pipeline.steps.reject_limit import check_reject_limit, read_reject_limit
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
        "bytes": None,
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


def names(events: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(event["event"], event.get("step")) for event in events]


def test_changes_of_states_become_events(tmp_path: Path) -> None:
    store, run = begin_run(tmp_path)
    run.step("a", state="running")
    run.event("submit", "a", job="tiny-a-r1", page="http://ray.test/#/jobs/tiny-a-r1")
    run.step("a", job="tiny-a-r1")
    made = {"rows_in": 3, "rows_out": 2, "rejected": {"odd": 1}, "seconds": 1.5, "bytes": 40}
    run.step("a", state="completed", message="done", **made)
    run.step("b", state="running")
    run.step("b", state="failed", message="DataError: two\nlines", job="tiny-b-r1")
    run.step("c", state="skipped", message="not run: it needs b, which failed")
    run.update(state="failed", message="failed: b")
    run.update(message="said once more")
    events = read_events(store, "run-1")
    steps = [("step_start", "a"), ("submit", "a"), ("publish", "a"), ("step_start", "b"), ("failed", "b")]
    assert names(events) == [("run_start", None), ("plan", None), *steps, ("skipped", "c"), ("run_end", None)]
    assert [fault for event in events for fault in faults(event)] == []
    publish, failed = events[4], events[6]
    assert {name: publish[name] for name in made} == made
    assert (failed["error"], failed["message"], failed["job"]) == ("DataError", "two\nlines", "tiny-b-r1")
    assert [step["needs"] for step in events[1]["steps"]] == [[], ["a"], ["b"]]
    assert all(line_of(event) and "\n" not in line_of(event) for event in events)


def test_rejects_over_the_limit_are_an_event_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        check_reject_limit(
            "records of data.pretrain", {"bad: json": 0, "truncated": 4, "video": 2}, 10, 0.3, "some:\n  video: 7\nMend"
        )
    store, run = begin_run(tmp_path)
    run.step("a", state="failed", message=f"DataError: {error.value}")
    over, failed = read_events(store, "run-1")[2:]
    assert over["event"] == "reject_budget"
    assert (over["rejected"], over["rows"], over["limit"]) == ({"truncated": 4, "video": 2}, 10, 0.3)
    assert faults(over) == []
    assert failed["event"] == "failed"


def test_rejecting_every_row_has_no_limit() -> None:
    with pytest.raises(DataError) as error:
        check_reject_limit("queries", {"no_region": 5}, 5, 1.0, "")
    assert read_reject_limit(str(error.value)) == {"rejected": {"no_region": 5}, "rows": 5, "limit": None}
    assert read_reject_limit("5 of 5 rows were read") is None


@pytest.mark.parametrize("state", ["cancelled", "crashed"])
def test_another_process_ends_the_log_of_a_dead_flow(tmp_path: Path, state: Literal["cancelled", "crashed"]) -> None:
    store, run = begin_run(tmp_path)
    run.step("a", state="running")
    close_run(store, run.record, state, "the flow process died")
    again = read_run(store, "run-1")
    assert again is not None
    close_run(store, again, "crashed", "a second hook")
    assert names(read_events(store, "run-1"))[2:] == [("step_start", "a"), (state, "a"), ("run_end", None)]


def test_runs_are_found_by_name_id_or_latest(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    with pytest.raises(ConfigError, match="there is no run 'latest'"):
        find_run(store, "latest")
    for number, name in enumerate(("brave-owl", "calm-fox")):
        RunFile.begin(store, f"{number}a-{number}", "tiny", None, flow_run=name)
    (tmp_path / "runs" / "broken.json").write_text("{")
    assert find_run(store, "latest").flow_run == "calm-fox"
    assert find_run(store, "brave-owl").flow_run_id == "0a-0"
    assert find_run(store, "1a").flow_run == "calm-fox"
    with pytest.raises(ConfigError, match=r"the newest are: calm-fox \(tiny, running\), brave-owl"):
        find_run(store, "swift-cat")


def test_what_is_no_event_is_noticed() -> None:
    assert faults({"event": "no such"}) == ["there is no event 'no such'"]
    missing = faults({"event": "submit", "time": "now", "step": "a", "job": 1})
    assert missing == ["page is missing", "job is 1"]
    assert set(EVENTS) >= {"run_start", "retry", "join", "publish", "reject_budget", "run_end"}


def test_what_is_no_run_file_hides_no_run(tmp_path: Path) -> None:
    store, _ = begin_run(tmp_path)
    runs = Path(store.join("runs"))
    for name in ("folder.json", "x.events"):
        (runs / name).mkdir()
    (runs / "link.json").symlink_to(runs / "nowhere")
    for number, content in enumerate((b"", b"[", b"[" * 100_000, b"[]", b"\xff")):
        (runs / f"odd{number}.json").write_bytes(content)
    assert find_run(store, "latest").recipe
