"""A temporary Prefect server for the tests that run flows; started once, and only if one of them runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server of this test session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=280):
        yield


@pytest.fixture
def surroundings(prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a flow run: a server, a store in a temporary folder, and an address where no Ray answers."""
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AGEVLM_RAY_JOBS_URL", "http://ray.test")
    monkeypatch.delenv("AGEVLM_CLUSTER_CPUS", raising=False)
    return tmp_path / "store"
