"""All commands mean the same stack and the same store; run files of lost runs are closed."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.cli.surroundings import close_run_file, end_cancel, local_stack, offline_settings, open_store, store_in_use
from flows.run.run_file import RunRecord, StepRecord, read_run, run_path, write_run
from flows.run.settings import read_settings
from infra.local.stack_file import StackState
from pipeline.artifacts.store import ArtifactStore
from tests.flows.cli.fixtures_command_line import agevlm


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AGEVLM_STORE", raising=False)
    return tmp_path / "home"


def test_the_store_in_use_is_the_one_named_else_the_stacks_else_the_homes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store_in_use() == str(home / "artifacts")
    local_stack().file.save(StackState(id="abc", store="/stacks/own"))
    assert store_in_use() == "/stacks/own"
    monkeypatch.setenv("AGEVLM_STORE", "/named")
    assert store_in_use() == "/named"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Environments of the processes that commands would have started."""
    found: list[dict[str, str]] = []

    def run(command: list[str], env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
        found.append(env)
        return subprocess.CompletedProcess(command, 1, "", "not really started")

    monkeypatch.setattr(subprocess, "run", run)
    return found


def test_a_store_in_the_users_home_is_the_same_folder_for_every_command(
    tmp_path: Path, started: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGEVLM_STORE", "~/x")
    monkeypatch.setenv("AGEVLM_RAY_JOBS_URL", "http://ray.test")
    store = str(tmp_path / "x")
    assert f"(store: {store})" in agevlm("plan", "--until", "inventory").output.replace("\n", "")
    assert f"(store: {store})" in agevlm("artifacts").output
    assert f"in {store}" in agevlm("report").error
    (tmp_path / "image.png").touch()
    (tmp_path / "checkpoint").mkdir()
    agevlm("ask", "abc", str(tmp_path / "image.png"), "What?")
    agevlm("export", str(tmp_path / "checkpoint"), str(tmp_path / "folder"))
    agevlm("stages")
    assert [environment["AGEVLM_STORE"] for environment in started] == [store] * 3
    assert local_stack().folders.store == store  # the store of `up` and of the flows that it starts
    assert local_stack().process_environment({})["AGEVLM_STORE"] == store
    assert read_settings().store == offline_settings().store == open_store().root == store


@pytest.mark.parametrize("variable", ["AGEVLM_HOME", "AGEVLM_STORE"])
def test_the_home_folder_of_nobody_is_a_message(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "~no-such-user/x")
    shown = agevlm("artifacts")
    assert shown.code == 1
    assert f"{variable}=~no-such-user/x: ~no-such-user is nobody's home folder; give a whole path" in shown.error


def test_the_run_file_of_a_lost_run_is_closed(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    states = {"a": "completed", "b": "running"}
    steps = tuple(StepRecord(key=key, id="0" * 64, kind="k", name="n", state=s) for key, s in states.items())  # type: ignore[arg-type]
    for id in ("lost", "other"):
        write_run(store, RunRecord(flow_run_id=id, recipe="r", steps=steps))
    assert close_run_file(store.root, "lost", "Its process ended.") == ""
    record = read_run(store, "lost")
    assert record is not None
    assert (record.state, record.message) == ("crashed", "Its process ended.")
    assert [step.state for step in record.steps] == ["completed", "crashed"]
    other = read_run(store, "other")
    assert other is not None
    assert other.state == "running"


def test_a_run_without_a_file_gets_none(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    assert close_run_file(store.root, "lost", "Its process ended.") == ""
    assert read_run(store, "lost") is None


def test_a_damaged_run_file_is_a_problem_and_no_error(tmp_path: Path) -> None:
    path = tmp_path / run_path("lost")
    path.parent.mkdir(parents=True)
    path.write_text('{"mood": "bad"}')
    assert close_run_file(str(tmp_path), "lost", "Its process ended.").startswith("its run file stays open: ")


def test_a_cancel_that_fails_says_why_in_one_line(home: Path) -> None:
    local_stack().file.save(StackState(id="abc"))  # no server is up
    problem = end_cancel(str(home / "artifacts"), "720a42f7-fa92-43c5-9c7f-bd8a020bea71")
    assert problem.startswith("its jobs were not stopped: ")
    assert "\n" not in problem
    assert "[" not in problem
