"""Ray tasks and threads make the same bytes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.steps.inventory as inventory
import pipeline.steps.pack as pack
from pipeline.artifacts.store import Artifact
from pipeline.compute import session as ray_session
from pipeline.compute.workers import RayWorkers, ordered
from tests.pipeline.steps import test_inventory, test_pack

pytestmark = pytest.mark.system


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with ray_session.session():
        yield


def content(artifact: Artifact) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in artifact.manifest.files}


def test_an_inventory_on_ray_is_the_same_as_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = test_inventory.many(tmp_path / "threads").inventory()
    monkeypatch.setattr(inventory, "RAY_FROM", 0)
    assert content(test_inventory.many(tmp_path / "ray").inventory()) == content(threads)


def test_a_pack_on_ray_is_the_same_as_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = test_pack.make(*test_pack.prepare(tmp_path / "threads", test_pack.lines()))
    monkeypatch.setattr(pack, "RAY_FROM", 0)
    assert content(test_pack.make(*test_pack.prepare(tmp_path / "ray", test_pack.lines()))) == content(threads)


def fail(number: int) -> int:
    if number == 3:
        raise KeyError("three")
    return number


def test_an_error_in_a_task_is_raised_as_the_functions_error() -> None:
    with pytest.raises(KeyError, match="three"):
        list(ordered(RayWorkers(), fail, ((n,) for n in range(9))))
