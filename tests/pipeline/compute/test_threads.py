"""OpenMP's waiting: short, unless the user said something else."""

import os
import subprocess
import sys

import pytest

from pipeline.compute.threads import OWN_SETTINGS, SPINS, wait_briefly


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN_SETTINGS:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)


def test_threads_wait_briefly() -> None:
    wait_briefly()
    assert os.environ[SPINS] == "1000"


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), (SPINS, "100"), ("KMP_BLOCKTIME", "0")])
def test_a_users_own_setting_is_kept(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    wait_briefly()
    assert {n: os.environ[n] for n in OWN_SETTINGS if n in os.environ} == {name: value}


def test_the_setting_reaches_openmp() -> None:
    """Torch's OpenMP library says how it was configured; it reads its variables once, when it is loaded."""
    program = "from pipeline.compute.threads import wait_briefly; wait_briefly(); import torch"
    environment = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr
