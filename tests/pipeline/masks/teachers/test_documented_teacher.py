"""The teacher of docs/teachers.md works as it is written there: through segment and masks."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from model.miniature.world import make_scene
from pipeline.artifacts.paths import PROJECT
from pipeline.masks.config import MaskGates, TeacherConfig
from pipeline.masks.teachers.table import TEACHERS, TeacherKind
from pipeline.steps.runner import run_job
from tests.pipeline.masks.fixtures_dataset import make_dataset, read
from tests.pipeline.steps.fixtures_local_segment import run_without_ray

BLOCKS = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "teachers.md").read_text(encoding="utf-8"), re.DOTALL)
MODULE = "pipeline.masks.teachers.colours"
NOWHERE = Path("no-weights")
TEACHED = ("red", "green", "blue", "yellow")


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module and the row of the document, as a user would add them."""
    code, row = BLOCKS
    file = tmp_path / "colours.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(MODULE, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, MODULE, module)
    for name, kind in eval(f"{{{row}}}", {"TeacherKind": TeacherKind}).items():
        monkeypatch.setitem(TEACHERS, name, kind)


def test_it_takes_less_than_150_lines() -> None:
    assert len(BLOCKS) == 2
    assert sum(block.count("\n") for block in BLOCKS) < 150


@pytest.mark.usefixtures("documented")
def test_it_makes_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_without_ray(monkeypatch)
    dataset = make_dataset(tmp_path / "data", scenes=12)
    segments = run_job(dataset.segment_job(NOWHERE, NOWHERE, TeacherConfig(kind="colours", shard_images=5)))
    masks = run_job(dataset.masks_job(segments, MaskGates()))
    known = [item for seed in range(12) for item in make_scene(seed).objects if item.colour in TEACHED]
    assert known
    rows = {(row["sample_id"], row["turn"]): row for row in read(segments)}
    assert {row["teacher"] for row in rows.values()} == {"colours"}
    assert sum(row["status"] == "ok" for row in rows.values()) >= 0.8 * len(known)
    found = masks.manifest.statistics["truth"]["overall"]
    assert found["iou"]["mean"] > 0.5
    assert found["absent_outcomes"]["ok"] == 0
