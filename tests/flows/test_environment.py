"""What processes and shells are told of the stack, and what they are not."""

import os
import subprocess
from pathlib import Path

import pytest

from flows.environment import environment, process_environment, shell_lines
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


def test_what_leads_to_other_servers_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "PREFECT_API_KEY", "PREFECT__FLOW_RUN_ID", "RAY_JOB_CONFIG_JSON"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("PREFECT_API_URL", "https://elsewhere")
    variables = process_environment({"EXTRA": "1"}, STATE)
    assert "elsewhere" not in {v for k, v in variables.items() if k.startswith(("RAY", "PREFECT"))}
    assert variables["EXTRA"] == "1"
    assert variables["HOME"] == os.environ["HOME"]


def test_a_shell_that_evaluates_the_lines_has_the_variables(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(STATE)
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    script = f"{shell_lines()}\nenv -0"
    output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    found = dict(line.split("=", 1) for line in output.split("\0") if line)
    assert found["AGEVLM_HOME"] == str(own_home)  # with its quote and its blank
    assert found["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert "RAY_ADDRESS" not in found
    # The mark would make `down` end the user's own shell.
    assert MARK not in found
    assert STATE.id not in output
