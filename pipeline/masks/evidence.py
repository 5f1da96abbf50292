"""Turns the pictures and queries of one shard into rows of evidence, in a teacher actor. Imports torch."""

import dataclasses
from typing import Any

import pyarrow as pa

from model.errors import DataError
from model.teachers.florence import FlorenceSettings, FlorenceTeacher
from model.teachers.grounding import Batches, Evidence, Grounding
from model.teachers.sam import SamTeacher
from pipeline.compute.hub import local_folder
from pipeline.masks.config import TeacherSetup
from pipeline.masks.pictures import Picture
from pipeline.schemas import EVIDENCE

QUERY_COLUMNS = tuple(name for name in EVIDENCE.names[: EVIDENCE.names.index("status")])


def open_teachers(setup: TeacherSetup) -> Grounding:
    """Load both models. Raises ConfigError."""
    config = setup.config
    florence = FlorenceTeacher.load(
        local_folder("florence", setup.florence),
        FlorenceSettings(prompt=config.prompt, max_new_tokens=config.max_new_tokens, beams=config.beams),
        setup.device,
        config.precision,
    )
    sam = SamTeacher.load(setup.sam, config.sam_prompt, setup.device, config.precision)
    return Grounding(florence, sam, config.batch_queries)


def shorten(row: dict[str, Any], limit: int) -> dict[str, Any]:
    """A row of QUERIES with its text cut to at most `limit` characters and its offsets adjusted."""
    return _with_text(row, row["query"][:limit].rstrip()) if len(row["query"]) > limit else row


def segment_shard(grounding: Grounding, setup: TeacherSetup, pictures: list[Picture]) -> tuple[pa.Table, Batches]:
    """Evidence (EVIDENCE) for every query of a shard, in order, and the batches that were run."""
    limit = setup.config.max_query_characters
    asked = [[shorten(row, limit) for row in picture.queries] for picture in pictures]
    usable = [index for index, picture in enumerate(pictures) if picture.pixels is not None]
    items = [(pixels, [row["query"] for row in asked[i]]) for i in usable if (pixels := pictures[i].pixels) is not None]
    found, batches = grounding.ground_all(items)
    answers = dict(zip(usable, found, strict=True))
    rows = []
    for index, picture in enumerate(pictures):
        lost = [Evidence(row["query"], "error", picture.reason) for row in asked[index]]
        for row, evidence in zip(asked[index], answers.get(index, lost), strict=True):
            rows.append(_row(row, evidence, setup.name))
    return pa.Table.from_pylist(rows, schema=EVIDENCE), batches


def _with_text(row: dict[str, Any], text: str) -> dict[str, Any]:
    if row["char_end"] - row["char_start"] != len(row["query"]):
        raise DataError(
            f"{row['sample_id']}: offsets {row['char_start']}..{row['char_end']} are not its query's; run subset again"
        )
    return {**row, "query": text, "char_end": row["char_start"] + len(text)}


def _row(query: dict[str, Any], evidence: Evidence, teacher: str) -> dict[str, Any]:
    """One row of EVIDENCE."""
    if evidence.query != query["query"]:
        query = _with_text(query, evidence.query)
    return {
        **{name: query[name] for name in QUERY_COLUMNS},
        "status": evidence.status,
        "reason": evidence.reason,
        "polygon_score": evidence.polygon_score,
        "instances": [dataclasses.asdict(instance) for instance in evidence.instances],
        "teacher": teacher,
    }
