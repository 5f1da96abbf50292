"""Ray tasks make what threads make, byte for byte."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.steps.inventory as inventory
import pipeline.steps.pack as pack
from pipeline import ray_session
from pipeline.artifacts.store import Artifact
from pipeline.workers import RayWorkers, ordered
from tests.pipeline.steps import test_inventory, test_pack

pytestmark = pytest.mark.system


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with ray_session.session():
        yield


def content(artifact: Artifact) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in artifact.manifest.files}


def test_the_same_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = test_inventory.many(tmp_path / "threads").inventory()
    monkeypatch.setattr(inventory, "RAY_FROM", 0)
    assert content(test_inventory.many(tmp_path / "ray").inventory()) == content(threads)


def test_the_same_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = test_pack.make(*test_pack.prepare(tmp_path / "threads", test_pack.lines()))
    monkeypatch.setattr(pack, "RAY_FROM", 0)
    assert content(test_pack.make(*test_pack.prepare(tmp_path / "ray", test_pack.lines()))) == content(threads)


def fail(number: int) -> int:
    if number == 3:
        raise KeyError("three")
    return number


def test_an_error_in_a_task_is_the_functions_own() -> None:
    with pytest.raises(KeyError, match="three"):
        list(ordered(RayWorkers(), fail, ((n,) for n in range(9))))
