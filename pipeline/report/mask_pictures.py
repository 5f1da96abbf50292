"""The queries that are shown on their images: a few of each status and reason, in the order of a hash of their keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from model.errors import DataError
from model.teachers import rle
from pipeline.artifacts.store import Artifact
from pipeline.masks.statistics import reason_name
from pipeline.report.collect import read_rows
from pipeline.report.overlays import images_of, overlay
from pipeline.report.sample import Row, Sample, key_of

SHOWN = {"ok": 6, "low_quality": 4, "no_region": 2}
"""Status -> number of pictures."""
KEYS = ["sample_id", "turn", "query_kind"]
SCORE_NAMES = {"polygon_score": "Florence", "sam_iou": "SAM", "agreement_iou": "agreement"}
COLUMNS = [*KEYS, "query", "status", "reason", "rle", "height", "width", *SCORE_NAMES]
EVIDENCE = [*KEYS, "instances.list.element.rle"]  # without the polygons
TRUTH = ["sample_id", "turn", "present", "height", "width", "rle"]


@dataclass(frozen=True)
class Picture:
    """A query drawn on its image."""

    row: Row
    uri: str
    facts: str
    knows_truth: bool


def rows_of(masks: Artifact) -> Iterator[Row]:
    """Every row of the masks, in order; one shard of the table is in memory at a time."""
    for raw in read_rows(masks, "part-", COLUMNS):
        yield raw | {"reason": reason_name(raw["reason"]) if raw["reason"] else ""}


def pictures_of(sample: Sample, pack: Artifact, segments: Artifact | None, inventory: Artifact | None) -> list[Picture]:
    """Rows of the sample on the images that the pack holds, with the teachers' masks before the gates and the truth.

    Raises DataError if one of these images is damaged.
    """
    images = images_of(pack, sample.images())
    shown = sample.choose(SHOWN, among=images)
    keys, turns = {key_of(row) for row in shown}, {key_of(row)[:2] for row in shown}
    evidence = {
        key: tuple(i["rle"] for i in row["instances"] or () if i["rle"])
        for row in (read_rows(segments, "part-", EVIDENCE) if segments else ())
        if (key := key_of(row)) in keys
    }
    truth = {
        turn: row
        for row in (read_rows(inventory, "truth/", TRUTH) if inventory else ())
        if (turn := (row["sample_id"], row["turn"])) in turns
    }
    made = []
    for row in shown:
        refused, fact = evidence.get(key_of(row), ()), truth.get(key_of(row)[:2], {})
        try:
            size = row["height"], row["width"]
            uri = overlay(images[row["sample_id"]], size, row["rle"], refused, fact.get("rle"))
        except DataError as error:
            raise DataError(f"image of {row['sample_id']} in {pack.ref}: {error}; make the pack again") from error
        made.append(Picture(row, uri, _facts(row, refused, fact), bool(fact.get("rle"))))
    return made


def _facts(row: Row, refused: tuple[str, ...], fact: dict[str, Any]) -> str:
    parts = [f"{SCORE_NAMES[name]} {row[name]:.2f}" for name in SCORE_NAMES if row[name] is not None]
    size = row["height"], row["width"]
    if fact.get("rle") and (fact["height"], fact["width"]) == size and (row["rle"] or refused):
        drawn = row["rle"] or rle.union(refused, *size)
        gates = "" if row["rle"] else " before gates"
        parts.append(f"IoU with truth {rle.iou(drawn, fact['rle'], *size):.2f}{gates}")
    elif fact.get("present") is False:
        parts.append("not in the image")
    return " \u00b7 ".join(parts)
