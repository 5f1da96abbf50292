"""overlap: duplicates and shared images, compared with a naive search."""

import hashlib
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.overlap.buckets as buckets
import pipeline.steps.record_batches as record_batches
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.compute.resources import Resources
from pipeline.plan.job import JobSpec
from pipeline.plan.locations import Locations
from pipeline.plan.step_table import STEPS
from pipeline.schemas import OVERLAP, RECORDS, part_name
from pipeline.steps.runner import run_job
from tests.pipeline.steps.fixtures_single_step import table

NAMES = ("pretrain", "instruct", "evaluation")
Record = dict[str, Any]
Found = set[tuple[str, str, str]]


def record(sample_id: str, image: int | None, text: str) -> Record:
    """A record: id, number of its picture, text."""
    checksum = None if image is None else hashlib.sha256(b"%d" % image).hexdigest()
    path = None if image is None else f"{sample_id}.jpg"  # equal pictures have different paths
    turns = [{"question": text, "answer": "yes"}]
    given = {"sample_id": sample_id, "given_id": f"given {sample_id}", "has_image": image is not None, "turns": turns}
    return {**dict.fromkeys(RECORDS.names), **given, "image": path, "image_sha256": checksum}


def naive(data: Mapping[str, list[Record]], name: str) -> Found:
    """The rows of one data set, found with dictionaries."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for row in data[name]:
        groups[row["image_sha256"], row["turns"][0]["question"]].append(row["sample_id"])
    found: Found = set()
    for ids in groups.values():
        original = min(ids, key=lambda sample_id: ("#" in sample_id, sample_id))
        found |= {(sample_id, "duplicates", original) for sample_id in ids if sample_id != original}
    for other in data.keys() - {name}:
        held = {row["image_sha256"] for row in data[other]} - {None}
        on = [row for row in data[name] if row["image_sha256"] in held]
        found |= {(row["sample_id"], f"{other}_images", row["image_sha256"]) for row in on}
    return found


def compared(root: Path, data: Mapping[str, list[Record]], per_file: int = 3) -> Artifact:
    """Run the step on these data sets, whose inventories have `per_file` records in each file."""
    store = ArtifactStore(str(root / "store"))
    refs = {name: _publish(store, name, rows, per_file) for name, rows in data.items()}
    spec = StepSpec(
        step="overlap", revision=STEPS["overlap"].revision, params={}, inputs={name: r.id for name, r in refs.items()}
    )
    return run_job(
        JobSpec(
            key="overlap",
            spec=spec,
            ref=ArtifactRef(kind="overlap", name="data", id=spec.id()),
            inputs=refs,
            locations=Locations(root=str(root / "store"), scratch=str(root / "scratch"), sources={}, weights={}),
            resources=Resources(),
        )
    )


def _publish(store: ArtifactStore, name: str, rows: list[Record], per_file: int) -> ArtifactRef:
    spec = StepSpec(step="inventory", revision=1, params={"name": name, "rows": rows}, inputs={})
    ref = ArtifactRef(kind="inventory", name=name, id=spec.id())
    staging = Staging(store, ref, spec, 0, {})
    count = max(1, -(-len(rows) // per_file))
    for number in range(count):
        part = rows[number * per_file : (number + 1) * per_file]
        staging.write_table(part_name(number, count, "records"), pa.Table.from_pylist(part, schema=RECORDS))
    staging.publish(Counts(unit="record", rows_in=len(rows), rows_out=len(rows)))
    return ref


def rows_of(artifact: Artifact, name: str) -> list[tuple[str, str, str]]:
    """The rows that the artifact lists for a data set."""
    rows = table(artifact, f"{name}/")
    assert rows.schema.equals(OVERLAP)
    return [(row["sample_id"], row["kind"], row["other"]) for row in rows.to_pylist()]


def content(artifact: Artifact) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Files with checksums, and statistics."""
    return [(entry.path, entry.sha256) for entry in artifact.manifest.files], artifact.manifest.statistics


contents = st.tuples(st.one_of(st.none(), st.integers(0, 6)), st.sampled_from("abc"), st.integers(0, 2))


def records(name: str, rows: Iterable[tuple[int | None, str, int]]) -> list[Record]:
    """Records with different ids; those of raw copies end in '#k'."""
    ids = ((hashlib.sha256(f"{name} {n}".encode()).hexdigest()[:12], copy) for n, (_, _, copy) in enumerate(rows))
    names = [f"{start}#{copy}" if copy else start for start, copy in ids]
    return [record(sample_id, image, text) for sample_id, (image, text, _) in zip(names, rows, strict=True)]


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.lists(contents, max_size=14)] * 3), st.integers(1, 5), st.integers(5, 20), st.randoms())
def test_exactly_what_a_naive_search_finds_whatever_the_files(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[list[tuple[int | None, str, int]], ...],
    per_file: int,
    bucket_rows: int,
    shuffler: random.Random,
) -> None:
    data = {name: records(name, rows) for name, rows in zip(NAMES, drawn, strict=True)}
    shuffled = {name: shuffler.sample(rows, len(rows)) for name, rows in data.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "BUCKET_ROWS", bucket_rows)
        patch.setattr(record_batches, "BATCH_ROWS", 4)
        found = compared(tmp_path_factory.mktemp("found"), data, per_file)
        again = compared(tmp_path_factory.mktemp("again"), shuffled, per_file + 2)
    assert content(found) == content(again)
    for name in ("pretrain", "instruct"):
        rows = rows_of(found, name)
        assert len(set(rows)) == len(rows)
        assert set(rows) == naive(data, name)
    for name, facts in found.manifest.statistics.items():
        expected = naive(data, name)
        images = {other: {row["image_sha256"] for row in rows} - {None} for other, rows in data.items()}
        others = [other for other in NAMES if other != name]
        kinds = [kind for _, kind, _ in expected]
        assert facts == {
            "records": len(data[name]),
            "images": len(images[name]),
            "duplicates": kinds.count("duplicates"),
            "images_in": {other: len(images[name] & images[other]) for other in others},
            "images_in_others": len(images[name] & (images[others[0]] | images[others[1]])),
            "records_on_images_in": {other: kinds.count(f"{other}_images") for other in others},
        }


DATA = {
    "pretrain": [
        record("b", 1, "A dog."),
        record("a#1", 1, "A dog."),
        record("c", 1, "A dog."),
        record("d", 1, "A cat."),
        record("f", None, "Why?"),
        record("e", None, "Why?"),
    ],
    "instruct": [record("b", 1, "A dog."), record("g", 2, "A dog.")],
    "evaluation": [record("h", 2, "Is there a dog?"), record("i", 3, "Is there a cat?")],
}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compared(tmp_path_factory.mktemp("example"), DATA)


def test_the_original_is_the_smallest_id_that_is_no_raw_copy(example: Artifact) -> None:
    dog = hashlib.sha256(b"1").hexdigest()
    shared = [(sample_id, "instruct_images", dog) for sample_id in ("a#1", "b", "c", "d")]
    duplicates = [("a#1", "duplicates", "b"), ("c", "duplicates", "b"), ("f", "duplicates", "e")]
    assert rows_of(example, "pretrain") == sorted(shared + duplicates)
    assert ("g", "evaluation_images", hashlib.sha256(b"2").hexdigest()) in rows_of(example, "instruct")


def test_every_record_is_counted_and_nothing_is_left_behind(example: Artifact) -> None:
    counts = example.manifest.counts
    assert (counts.unit, counts.rows_in, counts.rows_out) == ("record", 10, 10)
    assert example.matching("evaluation/") == []
    assert not list(Path(example.store.root).parent.glob("scratch/work/*"))


def test_the_step_runs_without_ray_and_torch() -> None:
    code = "import pipeline.steps.overlap, sys; print([m for m in ('ray', 'torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
