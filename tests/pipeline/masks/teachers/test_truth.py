"""The ground truth as a teacher: its evidence for one query, and the whole steps segment and masks."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import ConfigError
from model.miniature.world import make_scene
from model.teachers import rle
from pipeline.artifacts.store import Artifact
from pipeline.compute.resources import Resources
from pipeline.compute.session import session
from pipeline.masks.config import MaskGates, TeacherConfig, TeacherSetup
from pipeline.masks.teachers.truth import evidence_of, extent, open_truth
from pipeline.steps.runner import run_job
from tests.pipeline.masks.fixtures_dataset import Dataset, make_dataset, parts, read, with_truth
from tests.pipeline.steps.fixtures_local_segment import run_without_ray

SCENES = 8
TRUTH = TeacherConfig.model_validate({"kind": "truth", "shard_images": 3})
NOWHERE = Path("no-weights")
MASK = np.zeros((6, 8), dtype=bool)
MASK[2:5, 3:7] = True
QUERY = {"query": "A cup.", "height": 6, "width": 8}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path, SCENES)


def fact(**changes: Any) -> dict[str, Any]:
    return {"present": True, "height": 6, "width": 8, "rle": rle.encode(MASK)} | changes


def test_a_present_object_is_its_exact_mask_and_has_no_figures_of_models() -> None:
    evidence = evidence_of(QUERY, fact())
    (instance,) = evidence.instances
    assert (evidence.status, instance.rle, instance.area) == ("ok", rle.encode(MASK), 12)
    assert instance.area_fraction == 12 / 48
    assert instance.box == (3, 2, 7, 5)
    figures = (instance.sam_iou, instance.agreement_iou, instance.stability, evidence.polygon_score, evidence.ended)
    assert figures == (None,) * 5


def test_an_absent_object_and_a_turn_without_truth_have_no_region() -> None:
    assert vars(evidence_of(QUERY, fact(present=False, rle=None)))["reason"] == "absent"
    assert evidence_of(QUERY, None).reason == "no_truth"
    assert evidence_of(QUERY, fact(rle=rle.encode(np.zeros((6, 8), dtype=bool)))).reason == "empty_truth"
    for truth in (fact(present=False), None):
        assert (evidence_of(QUERY, truth).status, evidence_of(QUERY, truth).instances) == ("no_region", ())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 9}, "truth_of_another_size: the truth is 9 x 6, the picture 8 x 6"),
        ({"rle": rle.encode(np.ones((7, 8), dtype=bool))}, "damaged_truth: the mask ends behind its 8 x 6 pixels"),
        ({"rle": None}, "damaged_truth: '' is no run-length encoding"),
        ({"rle": "\N{BULLET}"}, "damaged_truth: "),
        ({"rle": "5O"}, "damaged_truth: a run of the mask has a negative length"),
    ],
)
def test_a_truth_that_does_not_fit_is_an_error_of_its_own_row(change: dict[str, Any], reason: str) -> None:
    evidence = evidence_of(QUERY, fact(**change))
    assert evidence.status == "error"
    assert evidence.reason.startswith(reason)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32), st.floats(0, 1))
def test_area_and_box_are_those_of_the_bitmap(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    area, box = extent(rle.encode(mask), height, width)
    assert area == mask.sum()
    if area:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_the_steps_make_exact_masks_of_the_truth_and_none_of_absent_objects(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_without_ray(monkeypatch)
    segments = run_job(dataset.segment_job(NOWHERE, NOWHERE, TRUTH))
    _check(dataset, segments)
    for file in dataset.images.glob("*.jpg"):
        file.unlink()  # the masks are known without the pictures
    assert parts(run_job(dataset.segment_job(NOWHERE, NOWHERE, TRUTH, attempt=1))) == parts(segments)


def _check(dataset: Dataset, segments: Artifact) -> None:
    objects = sum(len(make_scene(seed).objects) for seed in range(SCENES))
    rows = read(segments)
    assert [row["status"] for row in rows].count("ok") == objects
    assert {row["reason"] for row in rows if row["status"] == "no_region"} == {"absent"}
    assert {row["teacher"] for row in rows} == {"truth"}
    assert segments.manifest.statistics["instances"] == objects
    assert segments.manifest.provenance.device == "cpu"
    strict = MaskGates(min_polygon_score=1, min_sam_iou=1, min_agreement_iou=1, min_stability=1, min_area=0)
    masks = run_job(dataset.masks_job(segments, strict))
    found = masks.manifest.statistics["truth"]["overall"]
    assert (found["iou"]["mean"], found["mean_iou_present"]) == (1.0, 1.0)
    assert found["absent_outcomes"]["no_region"] == SCENES
    assert masks.manifest.counts.rows_out == objects, "figures that the truth does not have pass every gate"


def test_turns_without_truth_are_no_errors_and_other_sizes_are(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_without_ray(monkeypatch)
    rows = pq.read_table(dataset.inventory.path("truth/part-00000-of-00001.parquet")).to_pylist()
    kept = [row for row in rows if row["sample_id"] != "sample-002"]
    kept[0]["height"] += 1
    changed = with_truth(dataset, kept)
    artifact = run_job(changed.segment_job(NOWHERE, NOWHERE, TRUTH))
    found = read(artifact)
    assert {row["reason"] for row in found if row["sample_id"] == "sample-002"} == {"no_truth"}
    assert artifact.manifest.counts.rejected == {"truth_of_another_size": 1}


def test_a_data_set_without_truth_is_refused_before_anything_runs(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_without_ray(monkeypatch)
    with pytest.raises(ConfigError, match=r"'pretrain' has no ground truth.*Use the teacher florence_sam"):
        run_job(with_truth(dataset, None).segment_job(NOWHERE, NOWHERE, TRUTH))
    with pytest.raises(ConfigError, match="no ground truth"):
        open_truth(TeacherSetup({}, "truth", TRUTH, "cpu", 1))


@pytest.mark.system
def test_the_teachers_actor_imports_no_torch(dataset: Dataset) -> None:
    import subprocess

    code = (
        "import sys; from pipeline.masks.config import *; from pipeline.masks.stream import TeacherActor;"
        "from pipeline.artifacts.shards import Shards; from pipeline.artifacts.store import ArtifactStore;"
        "from pipeline.masks.actors import SegmentWork; from pipeline.masks.attempts import Attempts;"
        "from pipeline.masks.teachers.table import TEACHERS; from pipeline.sources.images.store import ImageStore;"
        f"store = ArtifactStore({dataset.store.root!r});"
        f"paths = [{dataset.inventory.path('truth/part-00000-of-00001.parquet')!r}];"
        "setup = TeacherSetup({}, 'truth', TeacherConfig(kind='truth'), 'cpu', 1, paths, store);"
        "shards, notes = Shards(store, 'segments', 'inputs'), Attempts(store, 'notes');"
        "TeacherActor(SegmentWork(shards, 1, ImageStore('.'), setup, notes, TEACHERS['truth'].phases));"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


@pytest.mark.system
def test_on_ray_the_same_bytes_are_made(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_dataset(tmp_path / "ray", SCENES)
    job = other.segment_job(NOWHERE, NOWHERE, TRUTH).model_copy(update={"resources": Resources(cpus=0.5, workers=2)})
    with session(cpus=2):
        through_ray: Artifact = run_job(job)
    _check(other, through_ray)
    run_without_ray(monkeypatch)
    assert parts(run_job(dataset.segment_job(NOWHERE, NOWHERE, TRUTH))) == parts(through_ray)
