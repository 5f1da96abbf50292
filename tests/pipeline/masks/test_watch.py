"""Progress of segment: rows, speed, errors, and the figures that the artifact keeps."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.artifacts import progress as progress_module
from pipeline.artifacts.manifest import FileEntry
from pipeline.artifacts.progress import Progress, progress_text, read_progress
from pipeline.artifacts.shards import Seal
from pipeline.artifacts.store import ArtifactStore
from pipeline.compute.metrics import metrics_of
from pipeline.masks import watch as watch_module
from pipeline.masks.watch import Watch

FILE = FileEntry(path="part", size=1, sha256="0" * 64)


def seal(rows: int, errors: int = 0, models: float = 3.0, actors: float = 4.0) -> Seal:
    facts = {
        "rejects": [["a", "poison", "b"]] * errors,
        "seconds": {"decode": 0.5, "models": models, "actors": actors},
        "images": 2,
    }
    return Seal(files=(FILE,), rows=rows, inputs="i", facts=facts)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    for module in (watch_module, progress_module):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_the_store_the_log_and_ray_see_rows_speed_time_left_and_errors(tmp_path: Path, clock: list[float]) -> None:
    store, seen = ArtifactStore(str(tmp_path)), dict[str, float]()

    def keep(values: Mapping[str, float]) -> None:
        seen.update(values)

    watch = Watch(Progress(store, "id", "query"), 100, [seal(20)])
    watch.gauges = keep
    clock[0] += 10
    watch.add(seal(40, errors=2))
    state = read_progress(store, "id")
    assert progress_text(state) == "60/100 queries  10 s left  rejects 2  rows_per_second 4"
    gauges = {name for name, metric in metrics_of("segment").items() if metric.kind == "gauge"}
    assert gauges <= seen.keys()
    assert (seen["images_done"], seen["shards_done"], seen["rows_per_second"], seen["model_share"]) == (4, 2, 4, 0.75)


def test_the_speed_counts_this_run_and_the_share_counts_all(tmp_path: Path, clock: list[float]) -> None:
    watch = Watch(Progress(ArtifactStore(str(tmp_path)), "id", "query"), 100, [seal(50, models=1.0)])
    clock[0] += 4
    watch.add(seal(50))
    figures = json.loads(watch.speed())
    assert figures["images_per_second"] == 0.5
    assert (figures["images"], figures["images_computed"]) == (4, 2)
    assert figures["seconds"] == {"actors": 8.0, "decode": 1.0, "models": 4.0}
    assert figures["model_share"] == 0.5


def test_a_run_that_computed_nothing_has_no_speed(tmp_path: Path) -> None:
    assert json.loads(Watch(Progress(ArtifactStore(str(tmp_path)), "id", "query"), 0, []).speed()) | {"about": ""} == {
        "images_per_second": None,
        "images_computed": 0,
        "images": 0,
        "seconds": {},
        "model_share": None,
        "about": "",
    }


def test_a_store_that_fails_costs_no_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ArtifactStore, "write_json", full)
    Watch(Progress(ArtifactStore(str(tmp_path)), "id", "query"), 10, [])
    assert "cannot be written: [Errno 28]" in capsys.readouterr().out
