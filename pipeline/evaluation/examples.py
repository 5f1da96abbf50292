"""Example questions of an evaluation with two pictures each: the image, and the attention drawn over it."""

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from model.agevlm.letterbox import Geometry, mask_to_cells
from model.images import decode_image
from model.teachers import rle
from pipeline.evaluation.overlay import heat_over
from pipeline.evaluation.questions import Prediction, Question
from pipeline.evaluation.scores import Result
from pipeline.evaluation.student import Student
from pipeline.sources.images.store import ImageStore

MAP_LAYER = 0  # the first cross-attention layer, as in the paper's table 4


def choose_examples(predictions: list[Prediction], number: int) -> list[Prediction]:
    """The first `number` questions in hash order, so that every checkpoint shows the same ones.

    Only questions with ground truth, if there are any.
    """
    known = [p for p in predictions if p.question.truth is not None]
    return sorted(known or predictions, key=lambda p: p.question.order)[:number]


def open_picture(images: ImageStore, question: Question) -> Image.Image:
    """The picture of a question. Raises ImageError if it is missing or changed since the inventory."""
    return decode_image(images.read_checked(question.image, question.image_sha256))


def geometry_of(student: Student, question: Question) -> Geometry:
    """The place of a question's picture in the student's square input."""
    place: Geometry = student.processor.image_processor.geometry(question.height, question.width)
    return place


def true_mask(question: Question) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """The true mask of the object in question, (height, width); None if it is unknown or not in the image."""
    truth = question.truth
    if truth is None or not truth.present or truth.rle is None:
        return None
    return rle.decode(truth.rle, question.height, question.width)


def true_cells(student: Student, question: Question) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """(S,) True for cells that the object in question touches; None if it is unknown or not in the image."""
    mask = true_mask(question)
    if mask is None or not mask.any():
        return None
    return mask_to_cells(mask, geometry_of(student, question)).reshape(-1)


def example_files(
    student: Student, images: ImageStore, examples: list[Prediction], results: dict[str, Result]
) -> dict[str, bytes]:
    """The content of examples.json and of its pictures, by file name."""
    correct = {}
    if "existence" in results:
        table = results["existence"].table
        correct = dict(zip(table["id"].to_pylist(), table["correct"].to_pylist(), strict=True))
    rows: list[dict[str, Any]] = []
    files: dict[str, bytes] = {}
    for number, prediction in enumerate(examples):
        question, attention = prediction.question, prediction.attention
        picture = open_picture(images, question)
        drawn = heat_over(picture, attention.maps[MAP_LAYER], geometry_of(student, question), true_mask(question))
        map_file, picture_file = f"maps/{number:03d}.png", f"maps/{number:03d}-image.png"
        files |= {map_file: _png(drawn), picture_file: _png(picture)}
        # Chance is the object's share of the valid cells: uniform attention does not fall on the letterbox's padding.
        inside = None if attention.truth is None else attention.truth & attention.valid
        rows.append(
            {
                "id": question.id,
                "question": question.text,
                "reference": question.reference,
                "answer": prediction.answer,
                "correct": correct.get(question.id),
                "present": None if question.truth is None else question.truth.present,
                "mass": None if inside is None else float(attention.maps[MAP_LAYER][inside].sum()),
                "chance": None if inside is None else float(inside.sum() / attention.valid.sum()),
                "layer": MAP_LAYER,
                "map": map_file,
                "image": picture_file,
                "image_path": question.image,
            }
        )
    return {"examples.json": (json.dumps({"examples": rows}, indent=2) + "\n").encode(), **files}


def _png(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, format="PNG", optimize=True)
    return sink.getvalue()
