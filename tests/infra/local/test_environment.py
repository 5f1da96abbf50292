"""The variables that processes and shells get from the stack, and the variables that they do not get."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.environment import HOME, KEPT, STORE, environment, process_environment, shell_lines
from infra.local.folders import Folders
from infra.local.processes import MARK
from infra.local.stack_file import StackState

STATE = StackState(id="secret-mark", ports={"prefect": 4200, "ray_dashboard": 8265})


def test_addresses_come_from_the_state(folders: Folders) -> None:
    assert "PREFECT_API_URL" not in environment(folders, None)
    variables = environment(folders, STATE)
    assert variables["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert variables["AGEVLM_RAY_JOBS_URL"] == variables["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:8265"
    assert "AGEVLM_PROMETHEUS_URL" not in variables
    known = STATE.model_copy(update={"ports": {**STATE.ports, "prometheus": 9090}})
    assert environment(folders, known)["AGEVLM_PROMETHEUS_URL"] == "http://127.0.0.1:9090"


def test_the_store_is_that_of_the_stack_if_it_has_one(folders: Folders) -> None:
    assert environment(folders, None)[STORE] == environment(folders, STATE)[STORE] == folders.store
    assert environment(folders, STATE.model_copy(update={"store": "/stack/store"}))[STORE] == "/stack/store"


def test_the_projects_programs_come_first_and_only_once(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = str(folders.project / ".venv" / "bin")
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", programs, "/bin"]))
    assert environment(folders, None)["PATH"].split(os.pathsep) == [programs, "/usr/bin", "/bin"]


LEADING_ELSEWHERE = [
    *("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT__FLOW_RUN_ID"),
    *("PREFECT_SERVER_DATABASE_HOST", "PREFECT_SERVER_API_BASE_PATH", "PREFECT_CLIENT_CUSTOM_HEADERS"),
    *("RAY_ADDRESS", "RAY_REDIS_ADDRESS", "RAY_AUTH_TOKEN", "RAY_USE_TLS", "RAY_TMPDIR", "RAY_JOB_CONFIG_JSON"),
    *("AGEVLM_REPO", "AGEVLM_CLUSTER_CPUS", "AGEVLM_RAY_JOBS_URL", HOME, STORE, MARK),
]


@pytest.mark.parametrize("name", LEADING_ELSEWHERE)
def test_a_variable_that_leads_elsewhere_reaches_no_process(
    name: str, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "elsewhere")
    assert process_environment(folders, STATE, {}).get(name) != "elsewhere"


@pytest.mark.parametrize("name", ["PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONSAFEPATH", "PYTHONINSPECT"])
def test_a_variable_that_changes_python_itself_reaches_neither_a_process_nor_a_shell(
    name: str, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "2")
    monkeypatch.setenv("PYTHONSTARTUP", "mine.py")
    assert name not in process_environment(folders, STATE, {})
    lines = shell_lines(folders, STATE).splitlines()
    assert f"unset {name}" in lines
    assert "unset PYTHONSTARTUP" not in lines


@pytest.mark.parametrize("name", ["OTEL_SDK_DISABLED", "WEB_CONCURRENCY", "VIRTUAL_ENV"])
def test_a_variable_of_other_programs_reaches_no_process_and_stays_in_the_shell(
    name: str, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "4")
    assert name not in process_environment(folders, STATE, {})
    assert name not in shell_lines(folders, STATE)


@given(name=st.from_regex(r"(PREFECT|RAY|AGEVLM)_[A-Za-z_]{1,12}", fullmatch=True))
def test_with_these_prefixes_only_allowed_variables_reach_a_process(name: str) -> None:
    folders = Folders(project=Path("/project"), home=Path("/home"), store="/store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, "theirs")
        assert (process_environment(folders, STATE, {}).get(name) == "theirs") == (name in KEPT)


def test_every_other_variable_reaches_a_process(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    variables = process_environment(folders, STATE, {"EXTRA": "1", MARK: STATE.id})
    assert (variables["EXTRA"], variables[MARK]) == ("1", STATE.id)
    assert (variables["PREFECT_LOGGING_LEVEL"], variables["RAYON_NUM_THREADS"]) == ("DEBUG", "1")
    assert variables["HOME"] == os.environ["HOME"]


def test_a_shell_that_evaluates_the_lines_has_the_variables(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = replace(folders, home=tmp_path / "it's home")  # a quote and a space
    for name in LEADING_ELSEWHERE:
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("RAY_X;touch evaluated", "a name that no shell accepts")
    script = f"{shell_lines(folders, STATE)}\nenv -0"
    output = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    found = dict(line.split("=", 1) for line in output.split("\0") if line)
    assert found[HOME] == str(folders.home)
    assert found["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert found["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert not [name for name in LEADING_ELSEWHERE if found.get(name) == "elsewhere"]
    assert not (tmp_path / "evaluated").exists()
    # With the mark in its environment, the user's own shell would be ended by `down`.
    assert MARK not in found
    assert STATE.id not in output
