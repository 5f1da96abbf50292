"""Flow runs on a real stack: killed, cancelled, failed, forced and rerun, with real Ray jobs of toy steps."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.local.web import Refused, Server
from pipeline.artifacts.paths import PROJECT
from tests.flows.fixtures_browser import log_in_to_prefect, open_page
from tests.infra.local.test_stack_system import Home

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Runs:
    """Flow runs of the toy deployment on a stack."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.api = home.prefect
        self.ray = home.ray
        found: Any = ask(self.api, "/deployments/name/toy/toy")
        self.deployment = found["id"]

    def start(self, steps: dict[str, Any], **parameters: Any) -> str:
        body = {"parameters": {"steps": steps, **parameters}}
        run: Any = ask(self.api, f"/deployments/{self.deployment}/create_flow_run", body=body)
        return str(run["id"])

    def state(self, run: str) -> tuple[str, str]:
        value: Any = ask(self.api, f"/flow_runs/{run}")
        return value["state"]["type"], value["state"]["message"] or ""

    def end(self, run: str) -> tuple[str, str]:
        wait_for(lambda: self.state(run)[0] in OVER)
        return self.state(run)

    def tasks(self, run: str) -> dict[str, str]:
        body = {"flow_runs": {"id": {"any_": [run]}}}
        found: Any = ask(self.api, "/task_runs/filter", body=body)
        return {task["name"]: task["state"]["name"] for task in found}

    def logs(self, run: str) -> str:
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        found: Any = ask(self.api, "/logs/filter", body=body)
        return "\n".join(line["message"] for line in found)

    def record(self, run: str) -> dict[str, Any]:
        path = self.home.path / "artifacts" / "runs" / f"{run}.json"
        value: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"steps": [], "state": ""}
        return value

    def step(self, run: str, key: str) -> dict[str, Any]:
        return next((step for step in self.record(run)["steps"] if step["key"] == key), {"job": None, "state": ""})

    def details(self, prefix: str) -> list[dict[str, Any]]:
        found: Any = ask(self.ray, "/api/jobs/")
        return [job for job in found if (job["submission_id"] or "").startswith(prefix)]

    def jobs(self, prefix: str) -> dict[str, str]:
        return {job["submission_id"]: job["status"] for job in self.details(prefix)}

    def working(self, run: str, key: str) -> str:
        """Wait until the step's job does its work. Returns the job."""
        wait_for(lambda: "making toy/" in self.output(self.step(run, key)["job"]))
        return str(self.step(run, key)["job"])

    def output(self, job: str | None) -> str:
        if job is None:
            return ""
        found: Any = ask(self.ray, f"/api/jobs/{job}/logs")
        return str(found["logs"] or "")


def ask(server: Server, path: str, body: Any = None) -> Any:
    """The answer of a server; a busy one is asked again."""
    for _ in range(20):
        try:
            return server.call(path, body, timeout=60)
        except Refused as refused:
            if refused.status not in (408, 429, 503):
                raise
        except OSError:
            pass  # a busy server drops connections; asked again below
        time.sleep(1)
    return server.call(path, body, timeout=60)


def wait_for(condition: Callable[[], object], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.3)


def flow_process(run: str) -> psutil.Process:
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"no process works on {run}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """A stack with the toy flow deployed beside the real ones."""
    home = Home(tmp_path_factory.mktemp("runs") / "home")
    result = home.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr
    try:
        home.deploy_toys()
        yield Runs(home)
    finally:
        home.agevlm("down")


def test_a_killed_flow_process_leaves_its_job_and_the_next_run_joins_it(runs: Runs) -> None:
    steps = {"kill": [{"seconds": 45}, []], "after": [{}, ["kill"]]}
    first = runs.start(steps)
    job = runs.working(first, "kill")
    os.kill(flow_process(first).pid, signal.SIGKILL)
    assert runs.end(first)[0] == "CRASHED"
    assert runs.jobs("toys-kill-") == {job: "RUNNING"}

    second = runs.start(steps)
    assert runs.end(second) == ("COMPLETED", "2 steps: 2 made, 0 cached")
    assert runs.jobs("toys-kill-") == {job: "SUCCEEDED"}, "joined, not doubled"
    assert runs.step(second, "kill")["job"] == job
    assert f"joined the living Ray job {job}" in runs.logs(second)
    assert "toy says kill" in runs.logs(second), "the whole log of a joined job is forwarded"
    # The run file and the task runs of the dead process say that it crashed.
    wait_for(lambda: runs.record(first)["state"] == "crashed" and runs.tasks(first) == {"kill": "Crashed"}, 60)

    third = runs.start(steps)
    assert runs.end(third) == ("COMPLETED", "2 steps: 0 made, 2 cached")
    wait_for(lambda: runs.tasks(third) == {"kill": "Cached", "after": "Cached"}, 60)


def test_cancel_stops_the_job_and_the_next_run_tries_again(runs: Runs) -> None:
    run = runs.start({"cancel": [{"seconds": 100}, []], "never": [{}, ["cancel"]]})
    job = runs.working(run, "cancel")
    cancelled = time.monotonic()
    ask(runs.api, f"/flow_runs/{run}/set_state", body={"state": {"type": "CANCELLING", "name": "Cancelling"}})
    wait_for(lambda: runs.jobs("toys-cancel-")[job] == "STOPPED", 60)
    assert time.monotonic() - cancelled < 30
    assert runs.end(run)[0] == "CANCELLED"
    assert runs.record(run)["state"] == "cancelled"
    assert [step["state"] for step in runs.record(run)["steps"]] == ["cancelled", "pending"]

    again = runs.start({"cancel": [{"seconds": 100}, []]})
    assert runs.working(again, "cancel") == job.removesuffix("1") + "2"
    # A run whose process does not react is cancelled by the hook alone.
    process = flow_process(again)
    os.kill(process.pid, signal.SIGSTOP)
    ask(runs.api, f"/flow_runs/{again}/set_state", body={"state": {"type": "CANCELLING", "name": "Cancelling"}})
    wait_for(lambda: runs.jobs("toys-cancel-")[job.removesuffix("1") + "2"] == "STOPPED", 120)
    assert runs.end(again)[0] == "CANCELLED"


def test_a_failure_is_shown_in_the_flow_run_and_the_rest_is_made(runs: Runs) -> None:
    run = runs.start({"bad": [{"fail": "too many odd rows"}, []], "lost": [{}, ["bad"]], "good": [{}, []]})
    kind, message = runs.end(run)
    assert kind == "FAILED"
    assert "failed: bad; not run: lost" in message
    assert "StepError: too many odd rows" in message
    wait_for(lambda: runs.tasks(run) == {"bad": "Failed", "lost": "Skipped", "good": "Completed"}, 60)
    assert "NoneType: None" not in runs.logs(run)
    assert "Traceback" not in runs.logs(run)


def test_force_makes_a_new_attempt_beside_the_old_one(runs: Runs) -> None:
    steps = {"one": [{"tag": "force"}, []], "two": [{}, ["one"]]}
    assert runs.end(runs.start(steps))[0] == "COMPLETED"
    forced = runs.start(steps, force=["one"])
    assert runs.end(forced) == ("COMPLETED", "2 steps: 2 made, 0 cached")
    store = Path(runs.home.path / "artifacts" / "toy")
    assert len(list((store / "one").glob("*/manifest.json"))) == 2
    assert len(list((store / "two").glob("*/manifest.json"))) == 2
    assert runs.end(runs.start(steps)) == ("COMPLETED", "2 steps: 0 made, 2 cached")


def test_the_dashboard_shows_the_step_of_each_job(runs: Runs) -> None:
    assert runs.end(runs.start({"named": [{"tag": "name"}, []]}))[0] == "COMPLETED"
    (job,) = runs.details("toys-named-")
    name = f"toys named attempt 0 {job['metadata']['artifact'][:12]} try 1"
    assert job["metadata"]["job_name"] == name
    python = Path(sys.executable).relative_to(PROJECT)
    spec = runs.home.path / "artifacts" / "jobs" / f"{job['submission_id']}.json"
    command = f"{python} -u -m tests.pipeline.plan.fixtures_toy_steps run {spec}"
    assert job["entrypoint"] == f"cd {PROJECT} && exec {command}"
    (manifest,) = (runs.home.path / "artifacts" / "toy" / "named").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["provenance"]["job"] == job["submission_id"]


def test_a_browser_shows_the_steps_under_their_names_and_their_notes(runs: Runs) -> None:
    steps = {"look": [{"tag": "seen"}, []], "behind": [{}, ["look"]]}
    assert runs.end(runs.start(steps))[0] == "COMPLETED"
    again = runs.start(steps)
    assert runs.end(again)[0] == "COMPLETED"
    artifact = runs.step(again, "look")["id"]
    with open_page() as page:
        log_in_to_prefect(page, runs.home.state.url("prefect"), runs.home.secret)
        page.goto(f"{runs.home.state.url('prefect')}/runs/flow-run/{again}")
        page.get_by_text("Task Runs", exact=True).first.click(timeout=60_000)
        for key in steps:
            page.get_by_role("link", name=key, exact=True).first.wait_for(timeout=60_000)
        page.get_by_text("Cached", exact=True).nth(1).wait_for(timeout=60_000)
        page.get_by_text("Artifacts", exact=True).first.click()
        page.get_by_text("toys-look", exact=True).first.click()
        page.get_by_text(artifact).first.wait_for(timeout=60_000)
        words = page.inner_text("body")
    assert "look: cached" in words
    for fact in ("3 rows", "2 rows", "odd"):  # in, out, and the reject by its reason
        assert fact in words


def test_cancel_in_the_browser_stops_the_job(runs: Runs) -> None:
    run = runs.start({"click": [{"seconds": 200}, []]})
    job = runs.working(run, "click")
    with open_page() as page:
        log_in_to_prefect(page, runs.home.state.url("prefect"), runs.home.secret)
        page.goto(f"{runs.home.state.url('prefect')}/runs/flow-run/{run}")
        page.get_by_role("button", name="Cancel", exact=True).click(timeout=60_000)
        page.get_by_role("button", name="Confirm", exact=True).click()
        assert runs.end(run)[0] == "CANCELLED"
    assert runs.jobs("toys-click-") == {job: "STOPPED"}
    assert runs.record(run)["state"] == "cancelled"


def test_one_run_is_cancelled_and_the_other_that_waits_for_its_job_is_not(runs: Runs) -> None:
    steps = {"shared": [{"seconds": 40}, []]}
    first = runs.start(steps)
    job = runs.working(first, "shared")
    second = runs.start(steps)
    wait_for(lambda: runs.step(second, "shared")["job"] == job)
    ask(runs.api, f"/flow_runs/{first}/set_state", body={"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert runs.end(first)[0] == "CANCELLED"
    assert runs.end(second) == ("COMPLETED", "1 steps: 1 made, 0 cached")
    assert runs.jobs("toys-shared-") == {job: "SUCCEEDED"}
