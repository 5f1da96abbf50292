"""Flow runs on a real stack whose parts are killed: the worker, the Prefect server, the flow process; and cancels."""

import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from infra.local.automations import FILE, read_automations
from pipeline.artifacts.paths import PROJECT
from tests.flows.run.test_execution_system import Runs, ask, flow_process, wait_for
from tests.infra.local.test_stack_system import Home

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
CANCEL = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
SAME_ENVIRONMENT = '--job-variable \'{"env": {"PREFECT_LOGGING_ROOT_HANDLERS": "debug"}}\''
"""The setting that prefect.yaml gives the flows of the pool of type process."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """A stack with the toy flow deployed beside the real ones."""
    home = Home(tmp_path_factory.mktemp("outages") / "home")
    result = home.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr
    try:
        yield toys(home)
    finally:
        home.agevlm("down")


def toys(home: Home) -> Runs:
    home.deploy_toys(f"-q masks-pretrain {SAME_ENVIRONMENT}")
    found = Runs(home)
    ask_patch(found, "/work_pools/local/queues/masks-pretrain", {"concurrency_limit": 3})
    return found


def ask_patch(runs: Runs, path: str, body: dict[str, Any]) -> None:
    runs.api.insist(path, body, method="PATCH", timeout=60)


def cancel(runs: Runs, run: str) -> float:
    """Cancel a run. Returns the time."""
    ask(runs.api, f"/flow_runs/{run}/set_state", body=CANCEL)
    return time.monotonic()


def kill(runs: Runs, role: str) -> None:
    os.kill(runs.home.state.processes[role].pid, signal.SIGKILL)


def up(runs: Runs) -> None:
    result = runs.home.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr


def wait_stopped(runs: Runs, prefix: str) -> None:
    wait_for(lambda: set(runs.jobs(prefix).values()) <= {"STOPPED"}, 60)


def test_a_run_outlives_its_worker_and_can_still_be_cancelled(runs: Runs) -> None:
    short = runs.start({"outlives": [{"seconds": 12}, []], "next": [{}, ["outlives"]]})
    long = runs.start({"lone": [{"seconds": 300}, []]})
    runs.working(short, "outlives")
    job = runs.working(long, "lone")
    kill(runs, "worker")
    # Without the worker no signal tells the flow of the cancel: it looks itself.
    began = cancel(runs, long)
    wait_for(lambda: runs.jobs("toys-lone-")[job] == "STOPPED", 60)
    seconds = time.monotonic() - began
    assert runs.end(long)[0] == "CANCELLED"
    assert seconds < 15
    assert runs.record(long)["state"] == "cancelled"
    assert runs.end(short) == ("COMPLETED", "2 steps: 2 made, 0 cached")
    up(runs)
    assert runs.end(runs.start({"again": [{}, []]}))[0] == "COMPLETED"


def test_a_cancel_whose_flow_process_and_worker_are_gone_is_ended_by_up(runs: Runs) -> None:
    run = runs.start({"orphan": [{"seconds": 300}, []]})
    job = runs.working(run, "orphan")
    process = flow_process(run)
    process.suspend()  # so that it does not see the cancel itself
    kill(runs, "worker")
    cancel(runs, run)
    process.kill()
    up(runs)
    assert runs.state(run)[0] == "CANCELLED"
    assert runs.jobs("toys-orphan-") == {job: "STOPPED"}
    assert runs.record(run)["state"] == "cancelled"
    assert runs.tasks(run) == {"orphan": "Cancelled"}


def test_a_cancel_in_which_the_flow_process_is_killed_leaves_no_task_running(runs: Runs) -> None:
    run = runs.start({"torn": [{"seconds": 300}, []]})
    job = runs.working(run, "torn")
    process = flow_process(run)
    process.suspend()
    began = cancel(runs, run)
    time.sleep(0.3)
    process.kill()
    wait_for(lambda: runs.jobs("toys-torn-") == {job: "STOPPED"}, 60)
    assert time.monotonic() - began < 15
    assert runs.end(run)[0] == "CANCELLED"
    wait_for(lambda: runs.tasks(run) == {"torn": "Cancelled"}, 60)


def test_a_server_outage_of_two_minutes_loses_nothing(runs: Runs) -> None:
    steps = {"first": [{"seconds": 20}, []], "second": [{"seconds": 5}, ["first"]], "third": [{}, ["second"]]}
    short = runs.start(steps)
    long = runs.start({"outage": [{"seconds": 600}, []]})
    runs.working(short, "first")
    job = runs.working(long, "outage")
    # Prefect's client drops lines that it cannot send, until it has sent some. It does so 2 s after the start.
    wait_for(lambda: "started Ray job" in runs.logs(short), 60)
    kill(runs, "prefect")
    down = time.monotonic()
    wait_for(lambda: runs.step(short, "third")["state"] == "completed", 110)  # steps follow each other meanwhile
    time.sleep(max(0.0, 120 - (time.monotonic() - down)))
    up(runs)
    assert runs.jobs("toys-outage-") == {job: "RUNNING"}
    began = cancel(runs, long)  # Prefect's own observer of cancellations has given up
    wait_for(lambda: runs.jobs("toys-outage-")[job] == "STOPPED", 60)
    assert time.monotonic() - began < 15
    assert runs.end(long)[0] == "CANCELLED"
    assert runs.end(short) == ("COMPLETED", "3 steps: 3 made, 0 cached")
    wait_for(lambda: runs.tasks(short) == dict.fromkeys(steps, "Completed"), 120)
    # The lines of the outage arrive after it; Prefect's client makes pauses of up to two minutes between its tries.
    wait_for(lambda: all(f"toy says {key}" in runs.logs(short) for key in steps), 200)


@pytest.mark.parametrize("pause", [0.0, 0.8, 2.0])
def test_a_cancel_at_any_moment_of_the_submission_stops_the_job(runs: Runs, pause: float) -> None:
    key = f"submit{round(pause * 10)}"
    run = runs.start({key: [{"seconds": 300}, []]})
    wait_for(lambda: runs.step(run, key)["state"] == "running", 120)
    time.sleep(pause)
    began = cancel(runs, run)
    wait_for(lambda: runs.record(run)["state"] == "cancelled", 60)  # written when its jobs were stopped
    assert time.monotonic() - began < 15
    wait_stopped(runs, f"toys-{key}-")
    assert runs.end(run)[0] == "CANCELLED"
    time.sleep(1)
    wait_stopped(runs, f"toys-{key}-")  # and none appears later


def test_a_killed_job_is_tried_again_and_a_wrong_one_is_not(runs: Runs) -> None:
    run = runs.start({"shot": [{"seconds": 8}, []]})
    job = runs.working(run, "shot")
    spec = runs.home.path / "artifacts" / "jobs" / f"{job}.json"
    os.kill(pid_of(str(spec)), signal.SIGKILL)
    assert runs.end(run) == ("COMPLETED", "1 steps: 1 made, 0 cached")
    again = f"{job.removesuffix('1')}2"
    assert runs.jobs("toys-shot-") == {job: "FAILED", again: "SUCCEEDED"}
    assert "Try 2 of 4 starts in 5 s" in runs.logs(run)
    wrong = runs.start({"wrong": [{"fail": "more than max_reject_share = 0.1 allows"}, []]})
    assert runs.end(wrong)[0] == "FAILED"
    assert len(runs.jobs("toys-wrong-")) == 1
    told = {"filter": {"event": {"name": ["agevlm.step.reject-budget"]}, "occurred": since()}}
    wait_for(lambda: ask(runs.api, "/events/filter", body=told)["events"], 60)
    (event,) = ask(runs.api, "/events/filter", body=told)["events"]
    assert event["payload"]["step"] == "wrong"
    wait_for(lambda: ask(runs.api, f"/deployments/{runs.deployment}")["paused"], 60)  # the automation's reaction
    assert runs.end(runs.start({"unharmed": [{}, []]}))[0] == "COMPLETED", "runs by hand still work"


def since() -> dict[str, str]:
    return {"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"}


def pid_of(word: str) -> int:
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command and command[-1] == word and "python" in command[0]:
            return int(process.pid)
    raise AssertionError(f"no process runs {word}")


def test_a_queue_lets_one_run_work_at_a_time_and_a_crash_frees_it(runs: Runs) -> None:
    ask_patch(runs, "/work_pools/local/queues/masks-pretrain", {"concurrency_limit": 1})
    try:
        first = runs.start({"queue1": [{"seconds": 300}, []]})
        job = runs.working(first, "queue1")
        second = runs.start({"queue2": [{}, []]})
        time.sleep(8)
        assert runs.state(second)[0] == "SCHEDULED"
        os.kill(flow_process(first).pid, signal.SIGKILL)
        assert runs.end(second)[0] == "COMPLETED"
        ask(runs.ray, f"/api/jobs/{job}/stop", body={})
    finally:
        ask_patch(runs, "/work_pools/local/queues/masks-pretrain", {"concurrency_limit": 3})


def test_pools_of_docker_and_kubernetes_take_the_same_deployments(runs: Runs) -> None:
    for kind, folder in (("docker", "docker"), ("kubernetes", "kuberay")):
        script = (
            f"cd {PROJECT}; prefect work-pool create {kind} --type {kind} "
            f"--base-job-template infra/{folder}/work-pool.json; "
            f"sed 's/\\*process/*{kind}/' prefect.yaml > $AGEVLM_HOME/{kind}.yaml; "
            f"prefect --no-prompt deploy --all --prefect-file $AGEVLM_HOME/{kind}.yaml"
        )
        result = runs.home.shell(script)
        assert result.returncode == 0, result.stdout + result.stderr
        for name in ("agevlm/full-recipe", "mask-generation/pretrain", "mask-generation/instruct", "training/stages"):
            deployment: Any = ask(runs.api, f"/deployments/name/{name}")
            assert deployment["work_pool_name"] == kind
            assert deployment["job_variables"]["image"] == "agevlm:latest"
            assert deployment["job_variables"]["env"]["AGEVLM_STORE"] == "/data/artifacts"
            assert deployment["pull_steps"] == [
                {"prefect.deployments.steps.set_working_directory": {"directory": "/opt/agevlm"}}
            ]
            assert not any(schedule["active"] for schedule in deployment["schedules"])
    local = runs.home.shell(f"cd {PROJECT}; prefect --no-prompt deploy --all")
    assert local.returncode == 0, local.stdout + local.stderr
    deployment = ask(runs.api, "/deployments/name/agevlm/full-recipe")
    assert deployment["work_pool_name"] == "local"
    (schedule,) = deployment["schedules"]
    assert schedule["active"] is False


def heartbeat(runs: Runs, run: str) -> None:
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "related": [],
        "payload": {},
    }
    runs.api.insist("/events", [event], timeout=60)


def test_a_run_without_heartbeats_is_marked_as_crashed_and_a_living_one_is_not(runs: Runs) -> None:
    found: Any = ask(runs.api, "/automations/filter", body={"limit": 200})
    assert {a["name"] for a in found} >= {"agevlm heartbeats lost", "agevlm run failed", "agevlm too many rejects"}
    quick = read_automations(FILE.read_text(), None)[0]
    quick = {**quick, "name": "quick", "trigger": {**quick["trigger"], "within": 20}}
    runs.api.insist("/automations/", quick, timeout=60)
    flow: Any = ask(runs.api, "/flows/", body={"name": "unattended"})
    running = {"type": "RUNNING", "name": "Running"}
    dead, alive = (
        str(ask(runs.api, "/flow_runs/", body={"flow_id": flow["id"], "state": running})["id"]) for _ in range(2)
    )
    time.sleep(3)  # the server's triggers learn of the new automation
    heartbeat(runs, dead)
    for _ in range(9):
        heartbeat(runs, alive)
        time.sleep(5)
    assert runs.state(alive)[0] == "RUNNING"
    wait_for(lambda: runs.state(dead)[0] == "CRASHED", 60)
    assert "No heartbeat" in runs.state(dead)[1]
    # A run that was marked by mistake gets its true state when it ends.
    done = {"state": {"type": "COMPLETED", "name": "Completed"}}
    assert ask(runs.api, f"/flow_runs/{dead}/set_state", body=done)["status"] == "ACCEPT"
    assert runs.state(dead)[0] == "COMPLETED"
