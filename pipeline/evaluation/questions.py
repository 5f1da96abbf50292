"""The questions of an evaluation (each turn of each record with an image, asked alone), and a model's predictions."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.errors import DataError
from pipeline.schemas import RECORDS, TRUTH


@dataclass(frozen=True)
class KnownObject:
    """Ground truth of a question: the mask of its object (COCO counts, full image), or that it is not in the image."""

    present: bool
    rle: str | None


@dataclass(frozen=True)
class Question:
    """One turn of a record, asked without the turns before it."""

    sample_id: str
    turn: int
    text: str
    reference: str
    image: str
    image_sha256: str
    height: int
    width: int
    truth: KnownObject | None

    @property
    def id(self) -> str:
        """Name of the question: the record's id and the turn's number."""
        return f"{self.sample_id}/{self.turn}"

    @property
    def order(self) -> str:
        """A hash of the question's id: examples are the first questions in this order."""
        return hashlib.sha256(f"example {self.id}".encode()).hexdigest()


def read_questions(inventory: Path) -> tuple[list[Question], list[tuple[str, str, str]]]:
    """All questions of an inventory, those of one record together, and the rejected ones (id, reason, detail).

    Raises DataError if the inventory holds no records.
    """
    truth = {
        (row["sample_id"], row["turn"]): KnownObject(row["present"], row["rle"])
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


@dataclass(frozen=True)
class Attention:
    """Attention of the question's tokens over the image cells, per cross-attention layer.

    maps: (L, S), mean over heads and the question's tokens; each row sums to 1.
    valid: (S,) bool, cells with at least one image pixel.
    truth: (S,) bool, cells that the object in question touches; None if it is unknown or not in the image.
    """

    maps: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    truth: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Prediction:
    """One answered question."""

    question: Question
    answer: str
    attention: Attention
