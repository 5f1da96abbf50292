"""Executing plans on a real Prefect server and an in-memory Ray: states, order, room, failure, cache, force, cancel."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import State, flow, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)

from flows.full_recipe import full_recipe
from flows.mask_generation import mask_generation
from flows.run import run_recipe, stopping
from flows.run.event_log import read_events
from flows.run.events import faults
from flows.run.execution import PlanExecution
from flows.run.run_file import RunFile, RunRecord, read_run
from flows.run.settings import Totals
from flows.training import stages
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.job import read_job
from pipeline.plan.recipe import RECIPES
from tests.fixtures_weights import write_weights
from tests.flows.fixtures_fake_ray import FakeRay, publish_plainly
from tests.flows.fixtures_toy_flow import run_toys

DIAMOND = {"a": [{}, []], "b": [{}, ["a"]], "c": [{}, ["a"]], "d": [{}, ["b", "c"]], "free": [{}, []]}
SEEN: list[str] = []


def run(steps: dict[str, Any], ray: FakeRay, force: tuple[str, ...] = ()) -> tuple[State[Any], RunRecord]:
    """Execute toy steps in a new flow run."""

    @flow(name="toy", persist_result=False)
    def toy() -> State[Any]:
        SEEN.append(str(runtime.flow_run.id))
        return run_toys(steps, list(force), ray)

    state = toy(return_state=True)
    return state, record_of(SEEN[-1])


def record_of(flow_run_id: str) -> RunRecord:
    record = read_run(ArtifactStore(os.environ["AGEVLM_STORE"]), flow_run_id)
    assert record is not None
    return record


def working_ray(fail: frozenset[str] = frozenset(), totals: Totals | None = None) -> FakeRay:
    ray = FakeRay(totals)
    ray.on_submit = publish_plainly(ray, fail)
    return ray


def task_states(flow_run_id: str, number: int) -> dict[str, tuple[str, str, str | None]]:
    """Task run name -> state name, type and message; waits, because Prefect records task runs from events."""
    with get_client(sync_client=True) as client:
        for _ in range(60):
            runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)])))
            states = {r.name: (r.state.name or "", r.state.type.value, r.state.message) for r in runs if r.state}
            if len(states) >= number and all(s[1] in ("COMPLETED", "FAILED", "CANCELLED") for s in states.values()):
                return states
            time.sleep(0.5)
    raise AssertionError(f"the server knows only {states}")


def artifacts_of(flow_run_id: str) -> dict[str, tuple[str, str]]:
    """Key -> type and data of the artifacts that a flow run left in the UI."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(flow_run_id)]))
        )
    return {str(a.key): (str(a.type), str(a.data)) for a in found}


def test_everything_is_made_in_order_and_then_cached(surroundings: Path) -> None:
    ray = working_ray()
    state, record = run(DIAMOND, ray)
    assert (state.type.value, state.message) == ("COMPLETED", "5 steps: 5 made, 0 cached")
    assert {s.key: s.state for s in record.steps} == dict.fromkeys(DIAMOND, "completed")
    assert record.steps[0].rejected == {"odd": 1}
    order = [job.split("-")[1] for job in ray.known]
    assert order.index("a") < min(order.index("b"), order.index("c"))
    assert order[-1] == "d"
    states = task_states(record.flow_run_id, 5)
    assert {name: s[0] for name, s in states.items()} == dict.fromkeys(DIAMOND, "Completed")

    again = working_ray()
    state, record = run(DIAMOND, again)
    assert state.message == "5 steps: 0 made, 5 cached"
    assert (again.known, again.totals_asked) == ({}, 0), "a cached run asks Ray nothing"
    states = task_states(record.flow_run_id, 5)
    assert {name: s[:2] for name, s in states.items()} == dict.fromkeys(DIAMOND, ("Cached", "COMPLETED"))
    notes = artifacts_of(record.flow_run_id)
    assert set(notes) == {"toys-a", "toys-b", "toys-c", "toys-d", "toys-free", "toys-steps", "toys-run"}
    assert notes["toys-a"][0] == "markdown"
    assert record.steps[0].id in notes["toys-a"][1]
    assert notes["toys-steps"][0] == "table"
    assert f"agevlm events {record.flow_run_id}" in notes["toys-run"][1]
    events = read_events(ArtifactStore(os.environ["AGEVLM_STORE"]), record.flow_run_id)
    assert [event["event"] for event in events] == ["run_start", "plan", *["cached"] * 5, "run_end"]
    assert [fault for event in events for fault in faults(event)] == []


def test_what_needs_a_failed_step_is_skipped_and_the_rest_is_made(surroundings: Path) -> None:
    ray = working_ray(fail=frozenset({"b"}))
    state, record = run({**DIAMOND, "e": [{}, ["d"]]}, ray)
    assert state.type.value == "FAILED"
    assert state.message is not None
    assert state.message.startswith("failed: b; not run: d, e. b: StepError: b was told to fail")
    assert {s.key: s.state for s in record.steps} == {
        "a": "completed",
        "b": "failed",
        "c": "completed",
        "d": "skipped",
        "e": "skipped",
        "free": "completed",
    }
    states = task_states(record.flow_run_id, 6)
    assert {name: s[0] for name, s in states.items()} == {
        "a": "Completed",
        "b": "Failed",
        "c": "Completed",
        "d": "Skipped",
        "e": "Skipped",
        "free": "Completed",
    }
    assert record.state == "failed"


def test_no_more_runs_at_once_than_the_cluster_holds(surroundings: Path) -> None:
    ray = working_ray(totals=Totals(cpus=2))
    state, _ = run({f"s{n}": [{}, []] for n in range(6)}, ray)
    assert state.type.value == "COMPLETED"
    assert ray.most_alive == 2


def lose(root: Path, name: str) -> Path:
    """Remove an artifact's manifest, so that it no longer exists. Returns its folder."""
    store = ArtifactStore(str(root))
    folder = Path(store.join(next(a for a in store.artifacts() if a.ref.name == name).ref.path))
    (folder / "manifest.json").unlink()
    return folder


def test_a_lost_artifact_is_made_again_and_what_follows_stays_if_it_comes_out_the_same(surroundings: Path) -> None:
    run(DIAMOND, working_ray())
    lose(surroundings, "a")
    ray = working_ray()
    state, record = run(DIAMOND, ray)
    assert (state.type.value, state.message) == ("COMPLETED", "5 steps: 1 made, 4 cached")
    assert [job.split("-")[1] for job in ray.known] == ["a"]
    assert {s.key: s.state for s in record.steps} == {**dict.fromkeys(DIAMOND, "cached"), "a": "completed"}


def test_a_stale_artifact_fails_with_the_remedy_and_the_remedy_works(surroundings: Path) -> None:
    run(DIAMOND, working_ray())
    lose(surroundings, "b")
    other = FakeRay()
    other.on_submit = publish_plainly(other, content="other")
    state, record = run(DIAMOND, other)
    by_key = {s.key: s for s in record.steps}
    assert state.type.value == "FAILED"
    assert by_key["b"].state == "completed"
    assert by_key["d"].state == "failed"
    assert "is stale: its input" in by_key["d"].message
    assert 'force = ["d"]' in by_key["d"].message
    state, record = run(DIAMOND, working_ray(), force=("d",))
    assert state.message == "5 steps: 1 made, 4 cached"


class Patient(FakeRay):
    """A Ray whose jobs run until they are stopped; `begun` is set when there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.on_submit = lambda job, spec: self.begun.set()


def raise_in_main(ray: Patient, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise an exception in the flow's main thread as soon as a job runs, as a signal handler would."""
    collect = PlanExecution._collect

    def interrupted(self: PlanExecution, *, block: bool) -> None:
        if ray.begun.is_set() and any(runner.job for runner in self._runs.values()):
            ray.begun.clear()
            raise error
        collect(self, block=block)

    monkeypatch.setattr(PlanExecution, "_collect", interrupted)


def test_an_interrupt_stops_the_jobs(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ctrl-C is handled as TerminationSignal is. That one would end this process; the system tests send it.
    ray = Patient()
    raise_in_main(ray, KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run({"a": [{}, []], "b": [{}, ["a"]]}, ray)
    assert [job.split("-")[1] for job in ray.stopped] == ["a"]
    record = record_of(SEEN[-1])
    assert record.state == "cancelled"
    assert [s.state for s in record.steps] == ["cancelled", "pending"]


def test_a_cancel_between_two_lines_leaves_the_rest_to_the_hook(
    surroundings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = working_ray()
    step = RunFile.step

    def interrupted(self: RunFile, key: str, **changes: Any) -> None:
        step(self, key, **changes)
        if changes.get("state") == "running":
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFile, "step", interrupted)
    monkeypatch.setattr(stopping, "CANCEL_SECONDS", 0.3)
    with pytest.raises(KeyboardInterrupt):
        run({"a": [{}, []]}, ray)
    record = record_of(SEEN[-1])
    assert (record.state, record.steps[0].state) == ("cancelling", "cancelled")


def test_a_lost_worker_does_not_stop_the_jobs_and_the_next_run_joins_them(
    surroundings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Patient()
    with monkeypatch.context() as patch:
        raise_in_main(ray, SystemExit(1), patch)
        with pytest.raises(SystemExit):
            run({"a": [{}, []]}, ray)
    (job,) = ray.known
    assert ray.stopped == []
    assert ray.known[job].alive

    finish = publish_plainly(ray)

    def finish_soon() -> None:
        time.sleep(1)
        finish(job, read_job(str(surroundings / "jobs" / f"{job}.json")))

    threading.Thread(target=finish_soon).start()
    state, record = run({"a": [{}, []]}, ray)
    assert state.type.value == "COMPLETED"
    assert list(ray.known) == [job], "joined, not doubled"
    assert record.steps[0].job == job
    store = ArtifactStore(str(surroundings))
    events = read_events(store, record.flow_run_id)
    assert [event["event"] for event in events] == ["run_start", "plan", "step_start", "join", "publish", "run_end"]
    first = ray.known[job].metadata["flow_run_id"]
    assert (events[3]["job"], events[3]["started_by"]) == (job, first)
    assert [event["event"] for event in read_events(store, first)] == ["run_start", "plan", "step_start", "submit"]
    assert [fault for event in events for fault in faults(event)] == []


# -- the real flows, with every step of the miniature recipe, on a Ray that makes plain artifacts


@pytest.fixture
def recipe(surroundings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, FakeRay]:
    """A copy of the miniature recipe whose weights are copies, and the Ray that its flows will find."""
    text = (RECIPES / "miniature.yaml").read_text()
    for role in ("florence", "sam", "text", "vision"):
        write_weights(tmp_path / "weights" / role, role)
    before = "weights: {florence: miniature, sam: miniature, text: miniature, vision: miniature}"
    assert before in text
    folders = ", ".join(f"{r}: {tmp_path / 'weights' / r}" for r in ("florence", "sam", "text", "vision"))
    path = tmp_path / "small.yaml"
    path.write_text(text.replace(before, f"weights: {{{folders}}}"))
    ray = working_ray(totals=Totals(cpus=4))
    monkeypatch.setattr(run_recipe, "RayJobs", lambda url: ray)
    return str(path), ray


def last_record(store: Path) -> RunRecord:
    newest = max((store / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return record_of(newest.stem)


Flow = Callable[..., State[Any]]


@pytest.mark.timeout(900)
def test_the_full_recipe_and_what_each_change_makes_again(recipe: tuple[str, FakeRay], surroundings: Path) -> None:
    path, ray = recipe

    def made(flow_of: Flow, **parameters: Any) -> set[str]:
        before = set(ray.known)
        state = flow_of(recipe=path, **parameters, return_state=True)
        assert state.type.value == "COMPLETED", state.message
        steps = {s.key for s in last_record(surroundings).steps if s.state == "completed"}
        assert len(set(ray.known) - before) == len(steps)
        return steps

    everything = made(full_recipe)
    assert len(everything) == 23
    record = last_record(surroundings)
    assert record.report is not None
    assert Path(record.report).read_text() == "report"

    started = time.monotonic()
    assert made(full_recipe) == set()
    seconds = time.monotonic() - started
    assert seconds < 40, f"23 cached steps took {seconds:.0f} s"

    gate = made(full_recipe, min_sam_iou=0.66)
    newest = max((surroundings / "jobs").glob("*-report-*.json"), key=lambda spec: spec.stat().st_mtime_ns)
    assert read_job(str(newest)).command == {
        "deployment": None,
        "parameters": {"recipe": path, "min_sam_iou": 0.66},
        "recipe": Path(path).read_text(),
    }
    assert gate == {
        "masks-pretrain",
        "masks-instruct",
        "stage3",
        "stage4",
        "stage4_lm",
        "evaluate-age_vlm",
        "evaluate-age_vlm_lm",
        "report",
    }
    # What mask generation makes with a setting, the full recipe finds with the same setting.
    assert made(mask_generation, dataset="pretrain", min_sam_iou=0.77) == {"masks-pretrain"}
    assert "masks-pretrain" not in made(full_recipe, min_sam_iou=0.77, until="masks")
    # force: a new attempt beside the old one.
    assert made(mask_generation, dataset="pretrain", force=True) == {"segment-pretrain", "masks-pretrain"}
    assert made(stages, until="stage2") == set()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"recipe": "miniatur"}, "ConfigError: recipe 'miniatur': no such recipe or file"),
        ({"until": "stage9"}, "ConfigError: until = 'stage9': no such step in this plan"),
        ({"force": ["segment"]}, "ConfigError: force = 'segment': no such step in this plan"),
        ({"min_area": 0.5, "max_area": 0.4}, "min_area 0.5 must be smaller than max_area 0.4"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_before_anything_runs(
    recipe: tuple[str, FakeRay], parameters: dict[str, Any], words: str
) -> None:
    path, ray = recipe
    state = full_recipe(**{"recipe": path, **parameters}, return_state=True)
    assert state.type.value == "FAILED"
    assert words in (state.message or "")
    assert ray.known == {}


def test_a_flow_without_surroundings_says_what_to_do(
    recipe: tuple[str, FakeRay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGEVLM_RAY_JOBS_URL")
    state = full_recipe(recipe=recipe[0], return_state=True)
    assert state.type.value == "FAILED"
    assert "AGEVLM_RAY_JOBS_URL" in (state.message or "")
    assert "agevlm up" in (state.message or "")


def test_log_threads_end_with_their_execution(surroundings: Path) -> None:
    run(DIAMOND, working_ray())
    assert not [t for t in threading.enumerate() if t.name.startswith("log of ")]
