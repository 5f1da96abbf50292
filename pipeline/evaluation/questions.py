"""The questions of an evaluation: every turn of every record with an image, on its own, with the truth where known."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from model.errors import DataError
from pipeline.schemas import RECORDS, TRUTH


@dataclass(frozen=True)
class Truth:
    """What a question is really about: the mask (COCO counts, whole image), or that it is not there."""

    present: bool
    rle: str | None


@dataclass(frozen=True)
class Question:
    """One turn of a record, asked on its own."""

    sample_id: str
    turn: int
    text: str
    reference: str
    image: str
    image_sha256: str
    height: int
    width: int
    truth: Truth | None

    @property
    def id(self) -> str:
        """Name of the question: the record's id and the turn's number."""
        return f"{self.sample_id}/{self.turn}"

    @property
    def order(self) -> str:
        """A random number that belongs to the question alone: examples are the first in this order."""
        return hashlib.sha256(f"example {self.id}".encode()).hexdigest()


def read_questions(inventory: Path) -> tuple[list[Question], list[tuple[str, str, str]]]:
    """All questions of an inventory, those of one record together, and the rejected ones (id, reason, detail).

    Raises DataError if the inventory holds no records.
    """
    truth = {
        (row["sample_id"], row["turn"]): Truth(row["present"], row["rle"])
        for row in _rows(inventory / "truth", TRUTH.names)
    }
    questions: list[Question] = []
    rejected: list[tuple[str, str, str]] = []
    for record in _rows(inventory / "records", RECORDS.names):
        for number, turn in enumerate(record["turns"]):
            question_id = f"{record['sample_id']}/{number}"
            if not record["has_image"]:
                rejected.append((question_id, "text_only", "there is no image to ask about"))
            elif not turn["question"]:
                rejected.append((question_id, "no_question", "the turn has an answer only"))
            else:
                questions.append(
                    Question(
                        sample_id=record["sample_id"],
                        turn=number,
                        text=turn["question"],
                        reference=turn["answer"],
                        image=record["image"],
                        image_sha256=record["image_sha256"],
                        height=record["height"],
                        width=record["width"],
                        truth=truth.get((record["sample_id"], number)),
                    )
                )
    if not questions and not rejected:
        raise DataError("the evaluation's inventory holds no questions; give data.evaluation records with turns")
    return questions, rejected


def _rows(folder: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("part-*.parquet")):
        yield from pq.read_table(path, columns=columns).to_pylist()
