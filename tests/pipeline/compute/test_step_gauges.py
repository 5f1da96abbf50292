"""Metrics of a step: set only where Ray is connected, and never an error of the step."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.artifacts.paths import PROJECT
from pipeline.artifacts.progress import Progress
from pipeline.artifacts.store import ArtifactStore
from pipeline.compute import step_gauges
from pipeline.compute.step_gauges import JOIN_SECONDS, StepGauges

TAGS = {"recipe": "r", "step": "s", "artifact": "a"}


class Seen:
    """Stands for the gauges of a process that is connected to Ray."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], float] = {}

    def set(self, values: Mapping[str, float], **more: str) -> None:
        self.values |= {(name, more.get("reason", "")): value for name, value in values.items()}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen()
    module = SimpleNamespace(Gauges=lambda group, tags: found)
    monkeypatch.setitem(sys.modules, "pipeline.compute.gauges", module)
    monkeypatch.setattr(step_gauges, "connected", lambda: True)
    return found


def test_progress_and_rejects_are_set(seen: Seen, tmp_path: Path) -> None:
    progress = Progress(ArtifactStore(str(tmp_path)), "id", "row", StepGauges(TAGS, "row", 2.5))
    progress.begin()
    assert seen.values == {("start_seconds", ""): 2.5}
    progress.update(3, 12)
    progress.rejects({"no_image": 2, "too_long": 1})
    assert seen.values[("done", "")] == 3
    assert seen.values[("total", "")] == 12
    assert seen.values[("rejected", "")] == 3
    assert (seen.values[("rejects", "no_image")], seen.values[("rejects", "too_long")]) == (2, 1)


def test_without_ray_nothing_is_set_and_ray_is_not_imported() -> None:
    code = (
        "import sys; from pipeline.compute.step_gauges import StepGauges\n"
        "gauges = StepGauges({}, 'row'); gauges.progress(1, 2, 1.0, 1.0); gauges.rejects({'x': 1})\n"
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT, env={"PYTHONPATH": str(PROJECT)})


@pytest.mark.parametrize(("age", "in_job", "joins"), [(0, True, 0), (JOIN_SECONDS, True, 1), (JOIN_SECONDS, False, 0)])
def test_only_a_long_step_of_a_job_joins_the_cluster(
    monkeypatch: pytest.MonkeyPatch, age: float, in_job: bool, joins: int
) -> None:
    joined: list[bool] = []
    monkeypatch.setattr(step_gauges, "connected", lambda: False)
    monkeypatch.setattr(step_gauges.session, "in_job", lambda: in_job)
    monkeypatch.setattr(step_gauges.session, "connect", lambda: joined.append(True))
    monkeypatch.setitem(sys.modules, "pipeline.compute.gauges", SimpleNamespace(Gauges=lambda group, tags: Seen()))
    gauges = StepGauges(TAGS, "row")
    started = time.monotonic()
    monkeypatch.setattr(step_gauges.time, "monotonic", lambda: started + age + 1e-3)
    gauges.progress(1, 2, None, None)
    assert len(joined) == joins


def test_an_error_of_the_metrics_is_no_error_of_the_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the agent is gone")

    monkeypatch.setattr(step_gauges, "connected", lambda: True)
    monkeypatch.setitem(sys.modules, "pipeline.compute.gauges", SimpleNamespace(Gauges=fail))
    gauges = StepGauges(TAGS, "row")
    gauges.progress(1, 2, None, None)
    gauges.progress(2, 2, None, None)
    assert capsys.readouterr().out.count("no more metrics: RuntimeError: the agent is gone") == 1
