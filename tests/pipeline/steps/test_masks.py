"""The step masks: one row of masks for every row of evidence, and the counts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import DataError
from model.miniature.world import make_scene, render
from model.teachers import rle
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact
from pipeline.masks.config import MaskGates
from pipeline.schemas import CONTACT_SHEET, EVIDENCE, PRICES_FILE, part_name
from pipeline.steps.runner import run_job
from tests.pipeline.masks.fixtures_dataset import NAME, Dataset, make_dataset, parts, read

OPEN = MaskGates(min_sam_iou=0, min_agreement_iou=0, min_area=0, max_area=1)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path, scenes=6)


def publish_segments(
    dataset: Dataset, change: dict[int, dict[str, Any]], parts: int = 3, params: dict[str, Any] | None = None
) -> Artifact:
    """Evidence of perfect teachers, with some rows changed by position."""
    rows = []
    for position, query in enumerate(dataset.queries.to_pylist()):
        scene = make_scene(int(query["sample_id"].split("-")[1]))
        _, masks = render(scene)
        row = {name: query[name] for name in EVIDENCE.names if name in query}
        row |= {
            "status": "no_region",
            "reason": "",
            "polygon_score": 0.9,
            "ended": True,
            "instances": [],
            "teacher": "t",
        }
        if query["turn"] < len(masks):
            mask = masks[query["turn"]]
            instance = {
                "polygons": [[0.0, 0.0, 1.0, 0.0, 1.0, 1.0]],
                "box": [0.0, 0.0, 1.0, 1.0],
                "rle": rle.encode(mask),
                "area": int(mask.sum()),
                "area_fraction": float(mask.mean()),
                "phrase": "",
                "sam_iou": 0.8,
                "stability": 0.9,
                "agreement_iou": 0.7,
            }
            row |= {"status": "ok", "instances": [instance]}
        rows.append(row | change.get(position, {}))
    parents = {k: a for k, a in (("subset", dataset.subset), ("inventory", dataset.inventory)) if a is not None}
    spec = StepSpec(step="segment", revision=1, params=params or {}, inputs={k: a.ref.id for k, a in parents.items()})
    staging = Staging(dataset.store, ArtifactRef(kind="segments", name=NAME, id=spec.id()), spec, 0, parents)
    for index in range(parts):
        table = pa.Table.from_pylist(rows[index::parts], schema=EVIDENCE)
        staging.write_table(part_name(index, parts), table)
    return staging.publish(Counts(unit="query", rows_in=len(rows), rows_out=len(rows)))


def test_every_row_is_accepted_or_counted_by_reason(dataset: Dataset) -> None:
    error = {"status": "error", "reason": "image_changed: gone: x", "polygon_score": None, "instances": []}
    segments = publish_segments(dataset, {0: error})
    artifact = run_job(dataset.masks_job(segments, MaskGates()))
    rows = read(artifact)
    counts = artifact.manifest.counts
    objects = sum(len(make_scene(seed).objects) for seed in range(6))
    assert counts.rows_in == len(rows) == len(dataset.queries) == objects + 6
    assert counts.rows_out == objects - 1 == sum(row["status"] == "ok" for row in rows)
    assert counts.rejected == {"image_changed": 1, "no_region": 6}
    assert len(artifact.matching("part-")) == 3
    rejects = pq.read_table(artifact.path("rejects.parquet")).to_pylist()
    assert len(rejects) == 7
    assert {"id": "sample-000/0/caption", "reason": "image_changed", "detail": "image_changed: gone: x"} in rejects
    truth = artifact.manifest.statistics["truth"]["overall"]
    assert truth["iou"]["mean"] == 1.0
    assert (truth["present"], truth["absent"], truth["accepted_absent"]) == (objects, 6, 0.0)


def test_a_changed_gate_makes_another_artifact_from_the_same_segments(dataset: Dataset) -> None:
    segments = publish_segments(dataset, {})
    open_masks = run_job(dataset.masks_job(segments, OPEN))
    strict = run_job(dataset.masks_job(segments, MaskGates(min_sam_iou=0.81)))
    assert open_masks.ref.id != strict.ref.id
    assert strict.manifest.counts.rows_out == 0
    assert strict.manifest.counts.rejected["min_sam_iou"] == open_masks.manifest.counts.rows_out
    assert strict.manifest.statistics["truth"]["overall"]["mean_iou_present"] == 0


def test_the_same_evidence_gives_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    first = run_job(dataset.masks_job(publish_segments(dataset, {}), OPEN))
    other = make_dataset(tmp_path / "again", scenes=6)
    second = run_job(other.masks_job(publish_segments(other, {}), OPEN))
    assert parts(first) == parts(second)


def test_segments_that_lost_rows_or_cannot_be_read_are_refused(dataset: Dataset) -> None:
    segments = publish_segments(dataset, {})
    part = Path(segments.path(segments.matching("part-")[1]))
    whole = pq.read_table(part)
    pq.write_table(whole.slice(1), part)
    with pytest.raises(DataError, match=rf"holds {len(dataset.queries) - 1} rows, but its manifest counts"):
        run_job(dataset.masks_job(segments, OPEN))
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(DataError, match=rf"{part.name} cannot be read"):
        run_job(dataset.masks_job(segments, OPEN))


def test_segments_without_parts_are_refused(dataset: Dataset) -> None:
    spec = StepSpec(step="segment", revision=1, params={}, inputs={})
    staging = Staging(dataset.store, ArtifactRef(kind="segments", name=NAME, id=spec.id()), spec, 0, {})
    staging.write_rejects([])
    segments = staging.publish(Counts(unit="query", rows_in=0, rows_out=0))
    with pytest.raises(DataError, match="run segment again"):
        run_job(dataset.masks_job(segments, OPEN))


def test_the_manifest_tells_what_each_gate_costs_alone_and_what_the_evidence_lost(dataset: Dataset) -> None:
    segments = publish_segments(
        dataset,
        {
            0: {"ended": False, "answer_tokens": 64, "characters_cut": 7, "degenerate": 2},
            1: {"ended": False, "polygon_score": 0.2},
        },
    )
    found = run_job(dataset.masks_job(segments, MaskGates(min_polygon_score=0.5))).manifest
    assert found.counts.rejected["require_ended"] == 2
    assert "min_polygon_score" not in found.counts.rejected
    alone = found.statistics["rejected_alone"]
    assert {name: number for name, number in alone.items() if number} == {"require_ended": 2, "min_polygon_score": 1}
    evidence = found.statistics["evidence"]
    assert evidence["answers"]["cut_off"] == 2
    assert evidence["characters_cut"] == {"rows": 1, "characters": 7}
    assert evidence["degenerate"] == {"rows": 1, "regions": 2}
    assert found.statistics["truth"]["overall"]["iou_above"]["0.9"] == 1.0
    assert len(found.to_bytes()) < 20_000


def test_prices_and_a_contact_sheet_are_part_of_the_artifact(dataset: Dataset) -> None:
    artifact = run_job(dataset.masks_job(publish_segments(dataset, {}), OPEN))
    with artifact.open(PRICES_FILE) as stream:
        prices = json.load(stream)
    assert prices["masks"] == sum(len(make_scene(seed).objects) for seed in range(6))
    assert prices["fitted"] + prices["held_out"] == prices["masks"]
    with artifact.open(CONTACT_SHEET) as stream:
        assert stream.read(3) == b"\xff\xd8\xff"


def test_evidence_without_a_truth_has_a_sheet_and_no_prices(dataset: Dataset) -> None:
    """The parents are not known, so neither the truth nor the images are."""
    bare = dataclasses.replace(dataset, subset=None, inventory=None)  # type: ignore[arg-type]
    segments = publish_segments(bare, {})
    artifact = run_job(dataset.masks_job(segments, OPEN))
    assert PRICES_FILE not in artifact.files
    assert CONTACT_SHEET in artifact.files
    assert "truth" not in artifact.manifest.statistics
