"""The real local stack: Prefect's server, Ray's head and a worker are started, killed in parts, and ended."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.local.lost_runs import flow_run_of
from infra.local.processes import family, process_of, programs
from infra.local.roles.table import ROLES
from infra.local.stack_file import StackState
from infra.local.web import Refused, Server, answers, call
from pipeline.artifacts.paths import PROJECT
from tests.infra.local.fixtures_home import Home, wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ended(home: Home, before: StackState) -> bool:
    return not family(before) and not (home.path / "stack.json").exists()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A stack that is up."""
    found = Home(tmp_path_factory.mktemp("stack") / "home")
    result = found.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr
    yield found
    found.agevlm("down")


def test_it_is_up_and_up_again_changes_nothing(home: Home) -> None:
    before = home.state
    status = home.agevlm("status")
    assert status.returncode == 0, status.stdout
    assert status.stdout.count(" ready ") == sum(role.wanted() for role in ROLES.values())
    assert f"cat {home.path / 'secret'}" in status.stdout
    assert home.secret not in status.stdout
    again = home.agevlm("up")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "starting" not in again.stdout
    assert home.state == before


def test_another_shell_sees_the_deployments_and_the_jobs(home: Home) -> None:
    result = home.shell("cd /; prefect deployment ls; ray job list")
    assert result.returncode == 0, result.stderr
    for name in ("agevlm/full-recipe", "mask-generation/pretrain", "mask-generation/instruct", "training/stages"):
        assert name in result.stdout
    # The variables alone are enough: the project's programs come first in PATH.
    assert str(PROJECT / ".venv") in home.shell("command -v prefect").stdout or sys.prefix not in str(PROJECT)


@pytest.mark.parametrize(("server", "path"), [("ray", "/api/jobs/"), ("prefect", "/admin/version")])
def test_the_servers_ask_for_the_secret(home: Home, server: str, path: str) -> None:
    known: Server = getattr(home, server)
    with pytest.raises(Refused) as refused:
        Server(known.url).call(path)
    assert refused.value.status == 401
    assert known.call(path) is not None


def test_other_pages_in_the_users_browser_get_nothing_from_prefect(home: Home) -> None:
    page = home.state.url("prefect")

    def preflight(origin: str) -> tuple[int, str | None]:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        url = f"{page}/api/deployments/filter"
        request = urllib.request.Request(url, headers={"Origin": origin, **asked}, method="OPTIONS")
        try:
            with DIRECT.open(request, timeout=60) as answer:
                return answer.status, answer.headers["Access-Control-Allow-Origin"]
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Access-Control-Allow-Origin"]

    assert preflight("http://elsewhere.example") == (400, None)
    assert preflight("http://127.0.0.1:1") == (400, None)
    assert preflight(page) == (200, page)
    local = page.replace("127.0.0.1", "localhost")  # pages from there use the same API address
    assert preflight(local) == (200, local)
    settings: Any = call(f"{page}/ui-settings")
    assert settings["api_url"] == "/api"  # of the address that the page came from
    for path in ("/", "/v2/"):
        with DIRECT.open(page + path, timeout=60) as answer:
            assert b"<html" in answer.read().lower()


def test_nothing_listens_outside_of_this_machine(home: Home) -> None:
    listening = {
        (process.name(), connection.laddr.ip)
        for process in family(home.state)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    outside = {pair for pair in listening if pair[1] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")}
    assert not outside


def test_a_real_run_is_followed_to_its_end(home: Home) -> None:
    result = home.agevlm("run", "agevlm/full-recipe", "-p", "until=inventory", "-p", "limit=8", "--watch")
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(re.findall(r"^inventory-\w+ +[0-9a-f]{12} +completed", result.stdout, re.MULTILINE)) == 3
    assert home.agevlm("verify", "--all").returncode == 0
    again = home.agevlm("demo", "--until", "inventory", "--limit", "8")
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(re.findall(r"^inventory-\w+ +[0-9a-f]{12} +cached", again.stdout, re.MULTILINE)) == 3
    assert home.state.url("ray_dashboard") in again.stdout


def test_a_run_that_fails_fails_the_command(home: Home) -> None:
    result = home.agevlm("run", "agevlm/full-recipe", "-p", "recipe=no-such-recipe", "--watch")
    assert result.returncode == 1
    assert "no-such-recipe" in result.stdout


def test_prefect_refuses_a_wrong_parameter_before_anything_runs(home: Home) -> None:
    result = home.agevlm("run", "mask-generation/pretrain", "-p", "min_sam_iou=7")
    assert result.returncode == 1
    assert "min_sam_iou" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_killed_ray_head_is_replaced(home: Home) -> None:
    before = home.state
    os.kill(before.processes["ray"].pid, signal.SIGKILL)
    wait_for(lambda: process_of(before.processes["ray"], before.id) is None)
    status = home.agevlm("status")
    assert status.returncode == 1
    assert "'agevlm up' starts again what is dead or broken" in status.stdout
    result = home.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr
    after = home.state
    assert after.processes["ray"].pid != before.processes["ray"].pid
    assert after.processes["prefect"] == before.processes["prefect"]
    assert home.ray.call("/api/jobs/") is not None


@pytest.mark.parametrize("program", ["raylet", "dashboard.py"])
def test_a_ray_head_that_outlived_its_child_is_replaced(home: Home, program: str) -> None:
    before = home.state
    children = [p for p in family(before, ["ray"]) if program in {Path(word).name for word in p.cmdline()}]
    assert children
    children[0].terminate()
    wait_for(lambda: program not in programs(before, "ray"), 60)
    assert process_of(before.processes["ray"], before.id) is not None, "the head takes this for an orderly end"
    result = home.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "not running: Ray head" in result.stdout
    assert home.state.processes["ray"].pid != before.processes["ray"].pid
    assert home.agevlm("status").returncode == 0


def test_a_run_that_died_with_its_worker_is_closed_by_the_next_up(home: Home) -> None:
    before = home.state
    api = home.prefect
    deployment: Any = api.call("/deployments/name/agevlm/full-recipe", timeout=60)
    parameters = {"until": "inventory", "limit": 9}
    created: Any = api.call(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters}, timeout=60)
    run = f"/flow_runs/{created['id']}"
    file = home.path / "artifacts" / "runs" / f"{created['id']}.json"
    wait_for(lambda: file.exists() and "running" in file.read_text(), 120)
    stopped = [process for process in family(before) if flow_run_of(process) == created["id"]]
    assert stopped
    for process in stopped:
        process.suspend()  # so that they report nothing more
    os.kill(before.processes["worker"].pid, signal.SIGKILL)
    for process in stopped:
        process.kill()
    wait_for(lambda: not any(process.is_running() for process in stopped))
    found: Any = api.answers(run, timeout=60)
    assert found["state"]["type"] == "RUNNING"

    result = home.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"marked as crashed, because their processes are gone: {created['name']}\n" in result.stdout
    found = api.answers(run, timeout=60)
    assert found["state"]["type"] == "CRASHED"
    tasks: Any = api.call("/task_runs/filter", {"flow_runs": {"id": {"any_": [created["id"]]}}}, timeout=60)
    assert not [task for task in tasks if task["state"]["type"] in ("RUNNING", "PENDING")]
    assert json.loads(file.read_text())["state"] == "crashed"


def test_two_stacks_live_side_by_side_and_down_ends_only_its_own(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    result = other.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr
    second = other.state
    assert not set(second.ports.values()) & set(home.state.ports.values())
    (other.path / "stack.json").unlink()  # the processes are recognised without it
    assert "no file records them" in other.agevlm("up").stderr
    down = other.agevlm("down")
    assert down.returncode == 0, down.stderr
    assert ended(other, second)
    assert home.agevlm("status").returncode == 0


def test_ctrl_c_of_the_demo_leaves_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    log = tmp_path / "demo.log"
    with open(log, "wb") as output:
        demo = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows", "demo"],
            env=home.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    wait_for(lambda: demo.poll() is not None or "inventory-pretrain" in log.read_text(), 700)
    before = home.state
    demo.send_signal(signal.SIGINT)
    assert demo.wait(300) == 130, log.read_text()
    assert ended(home, before)
    assert "Traceback" not in log.read_text()


def test_down_after_everything_was_killed(home: Home) -> None:
    before = home.state
    for record in before.processes.values():
        os.kill(record.pid, signal.SIGKILL)
    result = home.agevlm("down")
    assert result.returncode == 0, result.stdout + result.stderr
    assert ended(home, before)
    assert answers(before.url("prefect") + "/api/health", timeout=2) is None
    assert json.loads((home.path / "prefect" / "deployed.json").read_text())["deployments"]  # the deployments stay
