"""Ray tasks and threads make the same bytes."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import pipeline.steps.inventory as inventory
import pipeline.steps.pack as pack
from pipeline.artifacts.store import Artifact
from pipeline.compute import session as ray_session
from pipeline.compute.resources import Resources
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
        list(ordered(RayWorkers(Resources(workers=2)), fail, ((n,) for n in range(9))))


def now() -> float:
    return time.time()


def timed(folder: str, number: int) -> None:
    start = time.time()
    time.sleep(0.2)
    Path(folder, str(number)).write_text(f"{start} {time.time()}")


def test_a_step_leaves_the_cpus_that_it_did_not_ask_for_to_others(tmp_path: Path) -> None:
    free = ray.cluster_resources()["CPU"]
    workers = RayWorkers(Resources(cpus=free / 4, workers=2))
    results = ordered(workers, timed, ((str(tmp_path), n) for n in range(40)))
    next(results)
    trainer = ray.remote(num_cpus=free / 2)(now).remote()  # needs half of the cluster, as a trainer does
    began = time.time()
    assert ray.get(trainer, timeout=60) - began < 40 * 0.2 / 2, "it started beside the other tasks"
    list(results)
    times = [tuple(map(float, (tmp_path / str(n)).read_text().split())) for n in range(40)]
    assert max(sum(a <= start < b for a, b in times) for start, _ in times) == 2
