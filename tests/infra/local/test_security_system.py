"""A real stack against another user of the machine and against browsers: nothing answers without the secret.

The stack is started with `--host 0.0.0.0` by a user whose umask is 0, in a folder that everybody can enter.
"""

import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Page

from infra.local.processes import family
from infra.local.web import answers
from pipeline.artifacts.paths import PROJECT
from tests.flows.fixtures_browser import log_in_to_prefect, log_in_to_ray, open_page
from tests.infra.local.fixtures_home import Home, wait_for
from tests.infra.local.fixtures_stranger import REFUSED, UNKNOWN, listening, paths_in, reached_by_stranger

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process as another user")
OWN_FOLDERS = ("ray", "session_", "sockets", "logs", "old", "runtime_resources")
"""Beginnings of the names of Ray's folders: it opens them whenever one of its processes starts."""


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A stack that is up and has run a flow."""
    folder = Path(tempfile.mkdtemp(prefix="agevlm-", dir="/tmp"))
    folder.chmod(0o755)
    found = Home(folder / "home")
    before = os.umask(0)
    try:
        up = found.agevlm("up", "--host", "0.0.0.0")
        assert up.returncode == 0, up.stdout + up.stderr
        assert up.stdout.count(found.secret) == 1, "the secret is printed when it is made"
        assert "plain HTTP" in up.stdout
        run = found.agevlm("run", "agevlm/full-recipe", "-p", "until=inventory", "-p", "limit=9", "--watch")
        assert run.returncode == 0, run.stdout + run.stderr
        yield found
    finally:
        os.umask(before)
        found.agevlm("down")
        shutil.rmtree(folder)


def all_paths(home: Home) -> list[str]:
    """Every path of the home, and of Ray's folder if it lies elsewhere."""
    raylet = next(p for p in family(home.state) if p.name() == "raylet")
    (plasma,) = [word.split("=")[1] for word in raylet.cmdline() if word.startswith("--store_socket_name=")]
    return paths_in(dict.fromkeys((home.path, Path(plasma).parents[3])))


def test_only_the_pages_listen_on_the_host(home: Home) -> None:
    ports = listening(home.state)
    opened = {port for port, address in ports.items() if "127.0.0.1" not in address}
    assert opened == {home.state.ports["prefect"], home.state.ports["ray_dashboard"]}
    assert len(ports) > len(opened)


def test_workers_that_train_together_listen_on_loopback_only(home: Home, tmp_path: Path) -> None:
    text = (PROJECT / "flows" / "recipes" / "miniature.yaml").read_text()
    for old, new in {
        "stage1: {threads: 1}": "stage1: {threads: 1, workers: 2}",
        "max_steps: 300": "max_steps: 3",
    }.items():
        assert old in text
        text = text.replace(old, new)
    recipe = tmp_path / "two.yaml"
    recipe.write_text(text)
    run = ["run", "agevlm/full-recipe", "-p", f"recipe={recipe}", "-p", "until=stage1", "-p", "limit=24", "--watch"]
    found: dict[int, str] = {}
    with ThreadPoolExecutor() as pool:
        running = pool.submit(home.agevlm, *run)
        while not running.done():
            found |= trainers(home)
            time.sleep(0.2)
    assert running.result().returncode == 0, running.result().stdout + running.result().stderr
    assert len(found) > 2, "their store, and a port of each"
    assert {address.removeprefix("::ffff:") for address in found.values()} == {"127.0.0.1"}


def trainers(home: Home) -> dict[int, str]:
    """The ports that training workers listen on."""
    found: dict[int, str] = {}
    for process in family(home.state, ["ray"]):
        with suppress(psutil.Error):  # it ended just now
            if "".join(process.cmdline()[:1]).startswith("ray::RayTrainWorker"):
                listens = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
                found |= {c.laddr.port: c.laddr.ip for c in listens}
    return found


@AS_ROOT
def test_another_user_without_the_secret_gets_nothing(home: Home) -> None:
    paths = all_paths(home)
    assert any(path.endswith("sockets/plasma_store") for path in paths)
    ports = listening(home.state)
    reached = reached_by_stranger(ports, paths)
    assert reached.files == []

    pages = {home.state.ports["prefect"], home.state.ports["ray_dashboard"]}
    for port, found in reached.http.items():
        if int(port) in pages:
            assert found.pop("/") == 200, "the page itself, which asks for the secret"
            assert set(found.values()) <= {401, 404}, (port, found)
            assert found["/api/jobs/"] == 401
        else:
            # Ray's exporters of metrics take no secret. They answer every path with the metrics and nothing else.
            assert set(found.values()) in ({200}, {401}), (port, found)
    assert sum(set(found.values()) == {200} for found in reached.http.values()) <= 2
    asked = [code for found in reached.grpc.values() for code in found.values()]
    assert set(asked) == {REFUSED, UNKNOWN}
    assert all(REFUSED in found.values() for found in reached.grpc.values()), reached.grpc


def test_from_the_network_the_pages_ask_too(home: Home) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: it finds the address of this machine in its network
        address = probe.getsockname()[0]
    for port, path in (("prefect", "/api/admin/version"), ("ray_dashboard", "/api/jobs/")):
        url = f"http://{address}:{home.state.ports[port]}{path}"
        known = home.prefect if port == "prefect" else home.ray
        assert answers(url) is None
        assert answers(url, authorization=known.authorization) is not None


def test_what_the_stack_and_its_jobs_write_is_for_the_owner_only(home: Home) -> None:
    opened = []
    for path in all_paths(home):
        found = os.lstat(path)
        if not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o077:
            opened.append(path)
    assert not [path for path in opened if not Path(path).name.startswith(OWN_FOLDERS)], opened
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert list((home.path / "artifacts").glob("inventory/*/*/manifest.json"))
    # The next 'up' takes the permissions from Ray's folders again.
    assert home.agevlm("up").returncode == 0
    assert not [p for p in all_paths(home) if not os.path.islink(p) and os.lstat(p).st_mode & 0o077]


def test_the_secret_stands_in_its_file_only(home: Home) -> None:
    secret = home.secret.encode()
    files = [Path(path) for path in all_paths(home) if stat.S_ISREG(os.lstat(path).st_mode)]
    assert [file.name for file in files if secret in file.read_bytes()] == ["secret"]
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if home.secret in command]
    shown = home.shell("prefect config view --show-sources; prefect version")
    assert shown.returncode == 0, shown.stderr
    assert home.secret not in shown.stdout + shown.stderr
    assert "PREFECT_API_AUTH_STRING='********'" in shown.stdout
    assert home.secret not in home.agevlm("status").stdout + home.agevlm("up").stdout


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a fresh profile."""
    with open_page() as found:
        yield found


def test_a_browser_logs_in_to_prefect_and_a_wrong_secret_is_refused(home: Home, page: Page) -> None:
    address = home.state.url("prefect")
    page.goto(address)
    page.locator("input[type=password]").fill("wrong", timeout=60_000)
    page.get_by_role("button", name="Login").click()
    page.get_by_text("Invalid credentials").wait_for(timeout=60_000)
    log_in_to_prefect(page, address, home.secret)
    page.goto(f"{address}/v2/deployments")
    page.get_by_text("full-recipe").first.wait_for(timeout=60_000)


def test_the_link_to_a_run_asks_for_the_secret_and_then_shows_the_run(home: Home, page: Page) -> None:
    found: Any = home.prefect.call("/flow_runs/filter", {"limit": 1})
    page.goto(f"{home.state.url('prefect')}/v2/runs/flow-run/{found[0]['id']}")
    page.locator("input[type=password]").fill(home.secret, timeout=60_000)
    page.get_by_role("button", name="Login").click()
    page.get_by_text(found[0]["name"]).first.wait_for(timeout=60_000)


def test_a_browser_logs_in_to_ray_and_a_wrong_secret_is_refused(home: Home, page: Page) -> None:
    address = home.state.url("ray_dashboard")
    page.goto(address)
    page.locator("input[type=password]").fill("wrong", timeout=60_000)
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("Invalid authentication token").wait_for(timeout=60_000)
    log_in_to_ray(page, address, home.secret)
    page.goto(f"{address}/#/jobs")
    page.get_by_text("SUCCEEDED").first.wait_for(timeout=60_000)


def test_a_lost_secret_is_written_again(home: Home) -> None:
    secret = home.secret
    (home.path / "secret").unlink()
    up = home.agevlm("up")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "with the secret of the running servers" in up.stdout
    assert home.secret == secret
    assert secret not in up.stdout
    assert stat.S_IMODE((home.path / "secret").stat().st_mode) == 0o600
    assert home.prefect.answers("/admin/version") is not None


def test_another_host_needs_a_new_start(home: Home) -> None:
    refused = home.agevlm("up", "--host", "127.0.0.1")
    assert refused.returncode == 1
    assert "listens on 0.0.0.0" in refused.stderr


def test_a_job_sees_the_umask_of_the_stack(home: Home) -> None:
    script = f"{sys.executable} -c \"import os; print('umask %03o' % os.umask(0))\""
    job = home.ray.call("/api/jobs/", {"entrypoint": script})["submission_id"]
    wait_for(lambda: home.ray.call(f"/api/jobs/{job}")["status"] == "SUCCEEDED", 120)
    assert "umask 077" in home.ray.call(f"/api/jobs/{job}/logs")["logs"]
