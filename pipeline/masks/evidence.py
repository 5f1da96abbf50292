"""Turns the pictures and queries of one shard into rows of evidence (EVIDENCE), with a teacher's phases."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from model.errors import DataError
from model.teachers.evidence import Evidence
from pipeline.masks.config import TeacherSetup
from pipeline.masks.pictures import Picture
from pipeline.masks.teachers.interface import Batches, Phase
from pipeline.schemas import EVIDENCE

QUERY_COLUMNS = tuple(name for name in EVIDENCE.names[: EVIDENCE.names.index("status")])


def shorten(row: dict[str, Any], limit: int) -> dict[str, Any]:
    """A row of QUERIES with its text cut to at most `limit` characters and its offsets adjusted."""
    return _with_text(row, row["query"][:limit].rstrip()) if len(row["query"]) > limit else row


class ShardWork:
    """The work of a teacher's phases on one shard, in one process or in several."""

    def __init__(self, setup: TeacherSetup, pictures: Sequence[Picture]) -> None:
        self._setup, self._pictures = setup, pictures
        limit = setup.config.max_query_characters
        self._asked = [[shorten(row, limit) for row in picture.queries] for picture in pictures]
        self._usable = [index for index, picture in enumerate(pictures) if not picture.reason]
        self.found: list[list[Any]] = [[] for _ in self._usable]
        """The results of the last phase for each picture that can be used."""
        self.batches: Batches = {}
        """The batches that were run, by kind."""

    def run(self, phases: Sequence[Phase]) -> None:
        """Run the next phases."""
        items = [dataclasses.replace(self._pictures[i], queries=self._asked[i]) for i in self._usable]
        for phase in phases:
            self.found, computed = phase(items, self.found)
            self.batches |= computed

    def table(self) -> pa.Table:
        """Evidence (EVIDENCE) for every query of the shard, in order, after the last phase."""
        answers = dict(zip(self._usable, self.found, strict=True))
        rows = []
        for index, picture in enumerate(self._pictures):
            lost = [Evidence(row["query"], "error", picture.reason) for row in self._asked[index]]
            found = answers.get(index, lost)
            for given, row, evidence in zip(picture.queries, self._asked[index], found, strict=True):
                rows.append(_row(row, evidence, self._setup.name, len(given["query"])))
        return pa.Table.from_pylist(rows, schema=EVIDENCE)


def segment_shard(phases: Sequence[Phase], setup: TeacherSetup, pictures: list[Picture]) -> tuple[pa.Table, Batches]:
    """Evidence (EVIDENCE) for every query of a shard, in order, and the batches that were run."""
    work = ShardWork(setup, pictures)
    work.run(phases)
    return work.table(), work.batches


def _with_text(row: dict[str, Any], text: str) -> dict[str, Any]:
    if row["char_end"] - row["char_start"] != len(row["query"]):
        raise DataError(
            f"{row['sample_id']}: offsets {row['char_start']}..{row['char_end']} are not its query's; run subset again"
        )
    return {**row, "query": text, "char_end": row["char_start"] + len(text)}


def _row(query: dict[str, Any], evidence: Evidence, teacher: str, given: int) -> dict[str, Any]:
    """One row of EVIDENCE. given: characters of the query before it was cut."""
    if evidence.query != query["query"]:
        query = _with_text(query, evidence.query)
    return {
        **{name: query[name] for name in QUERY_COLUMNS},
        **{name: value for name, value in vars(evidence).items() if name not in ("query", "instances")},
        "characters_cut": given - len(evidence.query),
        "instances": [dataclasses.asdict(instance) for instance in evidence.instances],
        "teacher": teacher,
    }
