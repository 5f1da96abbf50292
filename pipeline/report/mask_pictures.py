"""The queries that are shown on their images: a few of each status and reason, in the order of a hash of their keys."""

import hashlib
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from model.errors import DataError
from model.teachers import rle
from pipeline.artifacts.store import Artifact
from pipeline.masks.quality import outcome
from pipeline.masks.statistics import reason_name
from pipeline.report.collect import read_rows
from pipeline.report.overlays import images_of, overlay

SHOWN = {"accepted": 6, "rejected": 4, "no_region": 2}
"""Status -> number of pictures."""
KEPT = 48
"""Rows of each status and reason that may become pictures: not every image is at hand."""
KEYS = ["sample_id", "turn", "query_kind"]
SCORE_NAMES = {"polygon_score": "Florence", "sam_iou": "SAM", "agreement_iou": "agreement"}
COLUMNS = [*KEYS, "query", "status", "reason", "rle", "height", "width", *SCORE_NAMES]
EVIDENCE = [*KEYS, "instances.list.element.rle"]  # without the polygons
TRUTH = ["sample_id", "turn", "present", "height", "width", "rle"]
Row = dict[str, Any]
"""COLUMNS of one query; `status` is an outcome of `pipeline.masks.quality`, `reason` the name of a gate or an error."""


@dataclass(frozen=True)
class Picture:
    """A query drawn on its image."""

    row: Row
    uri: str
    facts: str
    knows_truth: bool


class Sample:
    """Of each status and reason the first `size` rows, in the order of a hash of their keys."""

    def __init__(self, size: int = KEPT) -> None:
        self._size = size
        self._groups: dict[tuple[str, str], list[tuple[bytes, Row]]] = {}

    def add(self, row: Row) -> None:
        """Take the row if it is among the first of its group."""
        order = hashlib.sha256("\0".join(map(str, _key(row))).encode()).digest()
        group = self._groups.setdefault((row["status"], row["reason"]), [])
        insort(group, (order, row), key=lambda item: item[0])
        del group[self._size :]

    def images(self) -> set[str]:
        """Ids of the samples whose images could be shown."""
        return {row["sample_id"] for group in self._groups.values() for _, row in group}

    def choose(self, wanted: dict[str, int], among: Iterable[str] | None = None) -> list[Row]:
        """Rows to show, by status. The reasons of a status take turns, so that each is seen.

        among: only rows of these samples; None takes all.
        """
        chosen: list[Row] = []
        for status, number in wanted.items():
            queues = [
                [row for _, row in group if among is None or row["sample_id"] in among]
                for (found, _), group in sorted(self._groups.items())
                if found == status
            ]
            chosen += [row for row in chain(*zip_longest(*queues)) if row is not None][:number]
        return chosen


def rows_of(masks: Artifact) -> Iterator[Row]:
    """Every row of the masks, in order; one shard of the table is in memory at a time."""
    for raw in read_rows(masks, "part-", COLUMNS):
        status, reason = outcome(raw["status"], raw["reason"]), raw["reason"]
        yield raw | {"status": status, "reason": reason_name(reason) if reason else ""}


def pictures_of(sample: Sample, pack: Artifact, segments: Artifact | None, inventory: Artifact | None) -> list[Picture]:
    """Rows of the sample on the images that the pack holds, with the teachers' masks before the gates and the truth.

    Raises DataError if one of these images is damaged.
    """
    images = images_of(pack, sample.images())
    shown = sample.choose(SHOWN, among=images)
    keys, turns = {_key(row) for row in shown}, {_key(row)[:2] for row in shown}
    evidence = {
        key: tuple(i["rle"] for i in row["instances"] or () if i["rle"])
        for row in (read_rows(segments, "part-", EVIDENCE) if segments else ())
        if (key := _key(row)) in keys
    }
    truth = {
        turn: row
        for row in (read_rows(inventory, "truth/", TRUTH) if inventory else ())
        if (turn := (row["sample_id"], row["turn"])) in turns
    }
    made = []
    for row in shown:
        refused, fact = evidence.get(_key(row), ()), truth.get(_key(row)[:2], {})
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


def _key(row: Row) -> tuple[str, int, str]:
    return row["sample_id"], row["turn"], row["query_kind"]
