"""Finds the images of masks: in the raw data, whose place the job file of the masks gives, or else in packs."""

from collections.abc import Iterable
from pathlib import Path

from model.errors import AgevlmError, DataError
from pipeline.artifacts.store import Artifact
from pipeline.config import validate
from pipeline.plan.job import JobSpec
from pipeline.report.originals import ancestor, raw_images
from pipeline.report.overlays import images_of
from pipeline.report.sample import Row
from pipeline.sources.images.store import ImageStore
from pipeline.sources.table import DataSet


def find_images(masks: Artifact, rows: Iterable[Row]) -> dict[str, bytes]:
    """The image files of some rows, by sample_id; an image that is not at hand is left out."""
    rows = list(rows)
    found: dict[str, bytes] = {}
    segments = masks.store.get(masks.manifest.parents["segments"].ref) if "segments" in masks.manifest.parents else None
    if segments is None or not rows:
        return found
    for source in (_from_raw, _from_packs):
        wanted = [row for row in rows if row["sample_id"] not in found]
        try:
            found |= source(masks, segments, wanted) if wanted else {}
        except (AgevlmError, OSError) as error:
            print(f"images of {masks.ref} were not found: {error}", flush=True)
    return found


def _from_raw(masks: Artifact, segments: Artifact, rows: list[Row]) -> dict[str, bytes]:
    job = _job(masks) or _job(segments)
    if job is None:
        return {}
    locations = job.locations

    def store_of(inventory: Artifact) -> ImageStore:
        kept = inventory.location()
        return DataSet(locations.source(inventory.ref.name), Path(locations.scratch), kept).images()

    read, found = raw_images(segments, store_of), {}
    for row in rows:
        try:
            found[row["sample_id"]] = read(row)
        except (DataError, OSError):
            continue  # gone or changed: a pack may have it
    return found


def _from_packs(masks: Artifact, segments: Artifact, rows: list[Row]) -> dict[str, bytes]:
    inventory, found = ancestor(segments, "inventory").ref, dict[str, bytes]()
    for pack in masks.store.artifacts([], kind="pack"):
        parent = pack.manifest.parents.get("inventory")
        if parent is not None and parent.ref == inventory:
            found |= images_of(pack, {row["sample_id"] for row in rows} - found.keys())
    return found


def _job(artifact: Artifact) -> JobSpec | None:
    """The job that made an artifact, if the store has its file."""
    name = artifact.manifest.provenance.job
    content = artifact.store.read_json(f"jobs/{name}.json") if name else None
    return None if content is None else validate(JobSpec, content, f"jobs/{name}.json")
