"""What processes and shells are told of the stack, and what they are not."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.environment import KEPT, environment, process_environment, shell_lines
from flows.home import ROOT
from flows.processes import MARK
from flows.state import StackState, save

STATE = StackState(id="secret-mark", ports={"prefect": 4200, "ray_dashboard": 8265})


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "it's home"
    monkeypatch.setenv("AGEVLM_HOME", str(home))
    return home


def test_addresses_come_from_the_recorded_stack() -> None:
    assert "PREFECT_API_URL" not in environment()
    save(STATE)
    variables = environment()
    assert variables["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert variables["AGEVLM_RAY_JOBS_URL"] == variables["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:8265"


def test_the_projects_programs_come_first_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = str(ROOT / ".venv" / "bin")
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", programs, "/bin"]))
    assert environment()["PATH"].split(os.pathsep) == [programs, "/usr/bin", "/bin"]


LEADING_ELSEWHERE = [
    *("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT__FLOW_RUN_ID"),
    *("PREFECT_SERVER_DATABASE_HOST", "PREFECT_SERVER_API_BASE_PATH", "PREFECT_CLIENT_CUSTOM_HEADERS"),
    *("RAY_ADDRESS", "RAY_REDIS_ADDRESS", "RAY_AUTH_TOKEN", "RAY_USE_TLS", "RAY_TMPDIR", "RAY_JOB_CONFIG_JSON"),
    *("AGEVLM_REPO", "AGEVLM_CLUSTER_CPUS", "AGEVLM_RAY_JOBS_URL", MARK),
]


@pytest.mark.parametrize("name", LEADING_ELSEWHERE)
def test_what_leads_elsewhere_reaches_no_process(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "elsewhere")
    assert process_environment({}, STATE).get(name) != "elsewhere"


@given(name=st.from_regex(r"(PREFECT|RAY|AGEVLM)_[A-Za-z_]{1,12}", fullmatch=True))
def test_only_ours_and_what_is_allowed_reaches_a_process(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, "theirs")
        assert (process_environment({}, STATE).get(name) == "theirs") == (name in KEPT or name == "AGEVLM_HOME")


def test_everything_else_reaches_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    variables = process_environment({"EXTRA": "1", MARK: STATE.id}, STATE)
    assert (variables["EXTRA"], variables[MARK]) == ("1", STATE.id)
    assert (variables["PREFECT_LOGGING_LEVEL"], variables["RAYON_NUM_THREADS"]) == ("DEBUG", "1")
    assert variables["HOME"] == os.environ["HOME"]


def test_a_shell_that_evaluates_the_lines_has_the_variables(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(STATE)
    for name in LEADING_ELSEWHERE:
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("RAY_X;touch evaluated", "a name that is none to a shell")
    script = f"{shell_lines()}\nenv -0"
    output = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    found = dict(line.split("=", 1) for line in output.split("\0") if line)
    assert found["AGEVLM_HOME"] == str(own_home)  # with its quote and its blank
    assert found["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert found["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert not [name for name in LEADING_ELSEWHERE if found.get(name) == "elsewhere"]
    assert not (tmp_path / "evaluated").exists()
    # The mark would make `down` end the user's own shell.
    assert MARK not in found
    assert STATE.id not in output
