"""A small data set on disk, with its inventory and subset artifacts, for the steps that make masks."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from model.miniature.world import make_scene, render
from model.teachers import rle
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.compute.resources import Resources
from pipeline.masks.config import MaskGates, TeacherConfig
from pipeline.masks.teachers.table import teacher_kind
from pipeline.plan.job import JobSpec
from pipeline.plan.locations import Locations
from pipeline.plan.parameters import MasksParams, SegmentParams
from pipeline.plan.step_table import STEPS
from pipeline.schemas import QUERIES, TRUTH, part_name
from pipeline.sources.config import CambrianSource
from tests.pipeline.steps.fixtures_single_step import true_fingerprints

NAME = "pretrain"
MAX_REJECT_SHARE = 0.1


@dataclass(frozen=True)
class Dataset:
    """Pictures of the miniature world in a folder, one query per object and one about an absent object."""

    store: ArtifactStore
    images: Path
    queries: pa.Table
    inventory: Artifact
    subset: Artifact

    def segment_job(self, florence: Path, sam: Path, teacher: TeacherConfig, attempt: int = 0) -> JobSpec:
        """The job of the step segment; another attempt makes another artifact."""
        locations = self.locations(florence, sam)
        weights: dict[str, Any] = dict.fromkeys(teacher_kind(teacher.kind).weights, "now")
        params = SegmentParams(teacher=teacher, **weights)
        spec = StepSpec(
            step="segment",
            revision=STEPS["segment"].revision,
            params=true_fingerprints(params.model_dump(mode="json"), locations, NAME),
            inputs={"subset": self.subset.ref.id, "inventory": self.inventory.ref.id},
        )
        return JobSpec(
            key=f"segment-{NAME}",
            spec=spec,
            ref=ArtifactRef(kind="segments", name=NAME, id=spec.id(attempt)),
            attempt=attempt,
            inputs={"subset": self.subset.ref, "inventory": self.inventory.ref},
            locations=locations,
            resources=Resources(cpus=1, workers=1, threads=1),
        )

    def masks_job(self, segments: Artifact, gates: MaskGates) -> JobSpec:
        """The job of the step masks."""
        spec = StepSpec(
            step="masks",
            revision=STEPS["masks"].revision,
            params=MasksParams(gates=gates).model_dump(mode="json"),
            inputs={"segments": segments.ref.id},
        )
        return JobSpec(
            key=f"masks-{NAME}",
            spec=spec,
            ref=ArtifactRef(kind="masks", name=NAME, id=spec.id()),
            inputs={"segments": segments.ref},
            locations=self.locations(Path("none"), Path("none")),
            resources=Resources(),
        )

    def locations(self, florence: Path, sam: Path) -> Locations:
        """Locations whose only source is this data set."""
        source = CambrianSource(annotations=str(self.images / "unused.jsonl"), images=str(self.images))
        return Locations(
            root=self.store.root,
            scratch=str(Path(self.store.root).parent / "scratch"),
            max_reject_share=MAX_REJECT_SHARE,
            sources={NAME: source},
            weights={"florence": str(florence), "sam": str(sam)},
        )


def make_dataset(folder: Path, scenes: int) -> Dataset:
    """Render scenes and write inventory (with its truth) and subset."""
    images = folder / "images"
    images.mkdir(parents=True)
    queries: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for seed in range(scenes):
        scene = make_scene(seed)
        picture, masks = render(scene)
        file = images / f"{seed}.jpg"
        Image.fromarray(picture).save(file, quality=95)
        texts = [(f"A {item.name}.", mask) for item, mask in zip(scene.objects, masks, strict=True)]
        for turn, (text, mask) in enumerate([*texts, ("A thing that is not there.", None)]):
            sample = f"sample-{seed:03d}"
            size = {"height": scene.height, "width": scene.width}
            queries.append(
                {
                    "sample_id": sample,
                    "turn": turn,
                    "query_kind": "caption",
                    "char_start": 10,
                    "char_end": 10 + len(text),
                    "image_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                    **size,
                    "query": text,
                    "image": file.name,
                }
            )
            counts = None if mask is None else rle.encode(mask)
            truth.append({"sample_id": sample, "turn": turn, "present": mask is not None, **size, "rle": counts})
    return publish_dataset(folder, queries, truth)


def publish_dataset(folder: Path, queries: list[dict[str, Any]], truth: list[dict[str, Any]]) -> Dataset:
    """Inventory and subset from rows of QUERIES, sorted by image, and of TRUTH; the pictures are in `folder / images`.

    The data set is the folder's only one.
    """
    store = ArtifactStore(str(folder / "store"))
    table = pa.Table.from_pylist(queries, schema=QUERIES)
    inventory = _publish(store, "inventory", {"truth": pa.Table.from_pylist(truth, schema=TRUTH)}, {})
    subset = _publish(store, "subset", {"queries": table}, {"inventory": inventory})
    return Dataset(store, folder / "images", table, inventory, subset)


def with_truth(dataset: Dataset, truth: list[dict[str, Any]] | None) -> Dataset:
    """The data set with another ground truth (rows of TRUTH); None leaves the table out, as sources without truth do.

    Subset and queries are the same.
    """
    tables = {"records": dataset.queries} if truth is None else {"truth": pa.Table.from_pylist(truth, schema=TRUTH)}
    inventory = _publish(dataset.store, "inventory", tables, {}, {"truth": len(truth or [])})
    subset = _publish(dataset.store, "subset", {"queries": dataset.queries}, {"inventory": inventory})
    return replace(dataset, inventory=inventory, subset=subset)


def _publish(
    store: ArtifactStore,
    kind: str,
    tables: dict[str, pa.Table],
    parents: dict[str, Artifact],
    params: dict[str, Any] | None = None,
) -> Artifact:
    spec = StepSpec(step=kind, revision=1, params=params or {}, inputs={name: a.ref.id for name, a in parents.items()})
    staging = Staging(store, ArtifactRef(kind=kind, name=NAME, id=spec.id()), spec, 0, parents)
    for name, table in tables.items():
        staging.write_table(part_name(0, 1, name), table)
    rows = sum(len(table) for table in tables.values())
    return staging.publish(Counts(unit="record", rows_in=rows, rows_out=rows))


def parts(artifact: Artifact) -> dict[str, bytes]:
    """The bytes of an artifact's parts by name."""
    return {file: Path(artifact.path(file)).read_bytes() for file in artifact.matching("part-")}


def read(artifact: Artifact) -> list[dict[str, Any]]:
    """All rows of an artifact's parts."""
    import pyarrow.parquet as pq

    return [row for file in artifact.matching("part-") for row in pq.read_table(artifact.path(file)).to_pylist()]


def break_image(path: Path) -> None:
    """Change one byte of a file without changing its size."""
    content = bytearray(path.read_bytes())
    content[-20] ^= 0xFF
    partial = path.with_suffix(".new")
    partial.write_bytes(bytes(content))
    os.replace(partial, path)
