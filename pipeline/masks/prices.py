"""The prices of an artifact's masks: those that the step `masks` stored, and others made from its evidence."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.errors import ArtifactError, DataError
from pipeline.artifacts.spec import ArtifactRef
from pipeline.artifacts.store import Artifact
from pipeline.config import validate
from pipeline.masks.candidates import COLUMNS, INSTANCE_COLUMNS, Candidates, candidates_of
from pipeline.masks.config import MaskGates
from pipeline.masks.price import LEVELS, PRECISIONS, Price, price_table
from pipeline.masks.statistics import Row
from pipeline.schemas import PRICES_FILE, TRUTH


@dataclass(frozen=True)
class Prices:
    """A table of prices, and the one that was asked for."""

    segments: ArtifactRef
    masks: int
    """Queries with a mask and a known truth."""
    fitted: int
    held_out: int
    prices: list[Price]
    asked: Price
    """One of `prices`."""


def prices_of(artifact: Artifact, level: float, precision: float) -> Prices:
    """The prices of masks or segments, with that of a level of IoU and a precision.

    Only a price that the artifact does not store is computed. Raises ArtifactError for another kind of artifact, and
    DataError if its data set has no truth.
    """
    if artifact.ref.kind not in ("masks", "segments"):
        raise ArtifactError(f"{artifact.ref} is of kind {artifact.ref.kind}; give the id of masks or segments")
    segments = artifact if artifact.ref.kind == "segments" else _parent(artifact, "segments")
    stored = read_prices(artifact)
    if stored is not None:
        prices = [price_from(row) for row in stored["prices"]]
        asked = next((p for p in prices if (p.iou, p.wanted) == (level, precision)), None)
        if asked is not None:
            return Prices(segments.ref, stored["masks"], stored["fitted"], stored["held_out"], prices, asked)
    candidates = read_candidates(segments)
    params = artifact.manifest.spec.params.get("gates", {})
    base = validate(MaskGates, params, f"gates of {artifact.ref}")
    if stored is None:
        prices = price_table(candidates, base, LEVELS, PRECISIONS)
        asked = next((p for p in prices if (p.iou, p.wanted) == (level, precision)), None)
    if asked is None:
        asked = price_table(candidates, base, [level], [precision])[0]
        prices = sorted([*prices, asked], key=lambda price: (price.iou, price.wanted))
    held_out = int(candidates.held_out.sum())
    return Prices(segments.ref, len(candidates), len(candidates) - held_out, held_out, prices, asked)


def read_prices(masks: Artifact) -> dict[str, Any] | None:
    """The stored table of prices with the numbers behind it (`price_summary`); None if there is none."""
    if PRICES_FILE not in masks.files:
        return None
    with masks.open(PRICES_FILE) as stream:
        found: dict[str, Any] = json.load(stream)
    return found if found["prices"] else None


def price_from(row: dict[str, Any]) -> Price:
    """A price from its plain data."""
    return Price(**{field.name: row[field.name] for field in fields(Price)})


def read_candidates(segments: Artifact) -> Candidates:
    """The evidence as candidates, read part by part. Raises DataError if the truth is not known."""
    inventory = _parent(segments, "inventory")
    if not inventory.matching("truth/"):
        raise DataError(
            f"{inventory.ref} has no true masks, so the precision of {segments.ref} is not known. Find gates with the "
            "same teachers on a data set that has them, such as COCO's annotations, and use them here"
        )
    truth = {(row["sample_id"], row["turn"]): row for row in _rows(inventory, "truth/", list(TRUTH.names))}
    columns = [*COLUMNS, *(f"instances.list.element.{name}" for name in INSTANCE_COLUMNS)]
    found = candidates_of(
        (row, truth.get((row["sample_id"], row["turn"]))) for row in _rows(segments, "part-", columns)
    )
    if not len(found):
        raise DataError(f"{segments.ref} has no mask whose truth is known, so there is nothing to fit gates on")
    return found


def _rows(artifact: Artifact, prefix: str, columns: list[str]) -> Iterator[Row]:
    for file in artifact.matching(prefix, ".parquet"):
        with artifact.open(file) as stream:
            yield from pq.ParquetFile(stream).read(columns=columns).to_pylist()


def _parent(artifact: Artifact, name: str) -> Artifact:
    parent = artifact.manifest.parents.get(name)
    if parent is None:
        raise ArtifactError(f"{artifact.ref} was not made from {name}")
    return artifact.store.require(parent.ref)
