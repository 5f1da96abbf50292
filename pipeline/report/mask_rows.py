"""The rows of a data set's masks, each beside the teachers' evidence and the truth, one part of the tables at a time.

Only the columns that the page needs are read, and of the truth only what was asked about: 150K queries with their
polygons would fill gigabytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from model.teachers import rle
from pipeline.artifacts.store import Artifact
from pipeline.masks.quality import outcome
from pipeline.masks.statistics import reason_name
from pipeline.report.collect import read_rows, read_tables

KEYS = ["sample_id", "turn", "query_kind"]
COLUMNS = [*KEYS, "query", "status", "reason", "rle", "height", "width"]
SCORES = ["polygon_score", "sam_iou", "agreement_iou"]
EVIDENCE = [*KEYS, "instances.list.element.rle"]  # not the polygons
Key = tuple[str, int, str]  # sample_id, turn, query_kind
Truth = tuple[bool, int, int, str | None]  # present, height, width, rle


@dataclass(frozen=True)
class Row:
    """One query with what came of it. Masks are COCO counts in the full image's frame."""

    key: Key
    query: str
    status: str  # an outcome of `pipeline.masks.quality`
    reason: str  # the gate's name, or the name of an error
    size: tuple[int, int]  # height, width
    rle: str | None
    evidence: tuple[str, ...]  # the teachers' masks before the gates
    scores: dict[str, float]
    truth: str | None
    present: bool | None  # None: the source does not know what the text is about
    iou: float | None  # of the published mask and the truth; 0 where none was published
    raw_iou: float | None  # of the union of the teachers' masks before the gates and the truth


def rows_of(masks: Artifact, segments: Artifact | None, inventory: Artifact | None) -> Iterator[Row]:
    """Every row of the masks, in order. The part of the evidence with the same name as a part of masks is its own."""
    truth = _truth(inventory, _asked(masks)) if inventory else {}
    parts = set(segments.matching("part-", ".parquet")) if segments else set()
    for file in masks.matching("part-", ".parquet"):
        evidence = _evidence(segments, file) if segments and file in parts else {}
        for raw in read_rows(masks, file, COLUMNS + SCORES):
            key = (raw["sample_id"], raw["turn"], raw["query_kind"])
            yield _row(key, raw, evidence.get(key, ()), truth.get(key[:2]))


def _row(key: Key, raw: dict[str, Any], evidence: tuple[str, ...], truth: Truth | None) -> Row:
    size, status = (raw["height"], raw["width"]), outcome(raw["status"], raw["reason"])
    present, target, iou, raw_iou = None, None, None, None
    if truth is not None:
        present, target = truth[0], truth[3]
        # What the teachers never saw says nothing about them.
        if present and target and truth[1:3] == size and status != "error":
            height, width = size
            # No mask counts as 0: a teacher that stays silent must not look better than one that tries.
            iou = rle.iou(raw["rle"], target, height, width) if raw["rle"] else 0.0
            raw_iou = rle.iou(rle.union(evidence, height, width), target, height, width) if evidence else 0.0
    return Row(
        key=key,
        query=raw["query"],
        status=status,
        reason=reason_name(raw["reason"]) if raw["reason"] else "",
        size=size,
        rle=raw["rle"],
        evidence=evidence,
        scores={name: raw[name] for name in SCORES if raw[name] is not None},
        truth=target,
        present=present,
        iou=iou,
        raw_iou=raw_iou,
    )


def _asked(masks: Artifact) -> set[tuple[str, int]]:
    """The turns that masks were asked for."""
    return {
        pair
        for table in read_tables(masks, "part-", ["sample_id", "turn"])
        for pair in zip(table["sample_id"].to_pylist(), table["turn"].to_pylist(), strict=True)
    }


def _truth(inventory: Artifact, asked: set[tuple[str, int]]) -> dict[tuple[str, int], Truth]:
    columns = ["sample_id", "turn", "present", "height", "width", "rle"]
    return {
        (row["sample_id"], row["turn"]): (row["present"], row["height"], row["width"], row["rle"])
        for row in read_rows(inventory, "truth/", columns)
        if (row["sample_id"], row["turn"]) in asked
    }


def _evidence(segments: Artifact, file: str) -> dict[Key, tuple[str, ...]]:
    """The teachers' masks of one part, by query."""
    with segments.open(file) as stream:
        rows = pq.ParquetFile(stream).read(columns=EVIDENCE).to_pylist()
    return {
        (row["sample_id"], row["turn"], row["query_kind"]): tuple(i["rle"] for i in row["instances"] or () if i["rle"])
        for row in rows
    }
