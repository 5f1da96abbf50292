"""evaluate: a checkpoint's answers and attention on held-out questions, judged by the recipe's benchmarks.

The artifact holds `scores.json`, one table per benchmark, `examples.json` with the attention maps of a few questions
below `maps/` (the same questions for every checkpoint), and the questions that could not be asked.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from model.agevlm.letterbox import Geometry, mask_to_cells
from model.errors import ConfigError, DataError
from model.images import ImageError, decode_image
from model.teachers import rle
from pipeline.artifacts.manifest import Counts
from pipeline.budget import check_budget
from pipeline.evaluation.overlay import heat_over
from pipeline.evaluation.prediction import Attention, Prediction
from pipeline.evaluation.questions import Question, read_questions
from pipeline.evaluation.scores import Result
from pipeline.evaluation.student import Student
from pipeline.evaluation.table import BENCHMARKS
from pipeline.sources.images import read_image
from pipeline.sources.opening import image_root
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.params import EvaluateParams
from pipeline.training.checkpoint import load_student
from pipeline.training.layout import MODEL, STAGE_FILE

Reject = tuple[str, str, str]  # id, reason, detail
MAP_LAYER = 0  # the first cross-attention layer, as in the paper's table 4


def run(context: StepContext) -> Outcome:
    """Ask every question, judge the answers. Raises DataError, ArtifactError or ConfigError.

    The budget of rejects is one of the questions about an image; turns that ask nothing of one are rejected beside it.
    """
    params = context.params(EvaluateParams)
    config = params.evaluation
    questions, unasked = read_questions(context.input_path("inventory"))
    if not questions:
        raise DataError(
            f"none of the {len(unasked)} turns of data.evaluation asks about an image ({_told(unasked)}); "
            "give it records with images and questions"
        )
    student, device = _student(context, config.max_new_tokens)
    root = image_root(context.site, context.inputs["inventory"].ref.name)
    total = len(questions) + len(unasked)
    predictions: list[Prediction] = []
    refused: list[Reject] = []
    for batch, pictures in _batches(questions, config.batch, root, student, refused):
        _check_budget(refused, len(questions), context.site.max_reject_share)
        predictions += _ask(student, batch, pictures)
        context.progress.update(len(predictions) + len(refused) + len(unasked), total)
    _check_budget(refused, len(questions), context.site.max_reject_share)

    results: dict[str, Result] = {name: BENCHMARKS[name].score(predictions) for name in config.benchmarks}
    if not any(result.scores for result in results.values()):
        raise ConfigError(
            f"evaluation.benchmarks = {list(config.benchmarks)}: no question of data.evaluation has what they need "
            "(attention needs the truth about an object that is there); add 'existence'"
        )
    rejected = [*unasked, *refused]
    for name, result in results.items():
        context.staging.write_table(BENCHMARKS[name].table_file, result.table)
    context.staging.write_bytes("scores.json", _scores(results))
    _write_examples(context, student, root, _examples(predictions, config.attention_examples), results)
    context.staging.write_rejects(rejected)
    scored = frozenset[str]().union(*(result.scored for result in results.values()))
    counts = Counts(
        unit=context.step.unit,
        rows_in=total,
        rows_out=len(scored),
        rejected=_reasons(rejected),
        not_selected=len(predictions) - len(scored),
    )
    statistics = {
        score.benchmark + "." + score.metric: round(score.estimate.value, 6)
        for result in results.values()
        for score in result.scores
    }
    return Outcome(counts, statistics, device)


def _check_budget(refused: list[Reject], total: int, share: float) -> None:
    remedy = "see that data.evaluation's images are those that its inventory saw, or raise max_reject_share"
    check_budget("questions of data.evaluation", _reasons(refused), total, share, remedy)


def _reasons(rejected: list[Reject]) -> dict[str, int]:
    """Reason -> number, by name."""
    return dict(sorted(Counter(reason for _, reason, _ in rejected).items()))


def _told(rejected: list[Reject]) -> str:
    return ", ".join(f"{reason} {number}" for reason, number in _reasons(rejected).items())


def _student(context: StepContext, max_new_tokens: int) -> tuple[Student, str]:
    """The checkpoint's model on this machine's device, asked as it was trained."""
    transformers.logging.disable_progress_bar()
    device = torch.device("cuda" if context.resources.gpus > 0 else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(context.resources.threads)
    folder = context.input_path("checkpoint")
    model, processor = load_student(folder / MODEL)
    stage = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Student(model.to(device), processor, max_new_tokens, stage.get("system_prompt")), name


def _batches(
    questions: list[Question], size: int, root: Path, student: Student, rejected: list[Reject]
) -> Iterator[tuple[list[Question], list[Image.Image]]]:
    """Questions with their pictures, in batches of similar length; those that cannot be asked are rejected by name."""
    kept = []
    for question in questions:
        refusal = student.refusal(question.text)
        if refusal:
            rejected.append((question.id, *refusal))
        else:
            kept.append(question)
    # Short questions first: a batch is as long as its longest row. Ties stand in the inventory's order.
    kept.sort(key=lambda q: len(q.text))
    batch: list[Question] = []
    pictures: list[Image.Image] = []
    for question in kept:
        try:
            pictures.append(open_picture(root, question))
        except ImageError as error:
            rejected.append((question.id, error.reason, str(error)))
            continue
        batch.append(question)
        if len(batch) == size:
            yield batch, pictures
            batch, pictures = [], []
    if batch:
        yield batch, pictures


def open_picture(root: Path, question: Question) -> Image.Image:
    """The picture of a question, if it is the one that the inventory saw. Raises ImageError."""
    content = read_image(root, question.image)
    found = hashlib.sha256(content).hexdigest()
    if found != question.image_sha256:
        raise ImageError(
            "image_changed", f"sha256 is {found[:12]}, the inventory saw {question.image_sha256[:12]}: {question.image}"
        )
    return decode_image(content)


def _ask(student: Student, questions: list[Question], pictures: list[Image.Image]) -> list[Prediction]:
    answers, maps_bls, valid_bs = student.ask(pictures, [q.text for q in questions])
    return [
        Prediction(question, answers[b], Attention(maps_bls[b], valid_bs[b], _true_cells(student, question)))
        for b, question in enumerate(questions)
    ]


def _geometry(student: Student, question: Question) -> Geometry:
    place: Geometry = student.processor.image_processor.geometry(question.height, question.width)
    return place


def _true_mask(question: Question) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """The asked object's pixels, (height, width); None where it is unknown or not there."""
    truth = question.truth
    if truth is None or not truth.present or truth.rle is None:
        return None
    return rle.decode(truth.rle, question.height, question.width)


def _true_cells(student: Student, question: Question) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    mask = _true_mask(question)
    if mask is None or not mask.any():
        return None
    return mask_to_cells(mask, _geometry(student, question)).reshape(-1)


def _examples(predictions: list[Prediction], number: int) -> list[Prediction]:
    """By a hash of the question, so that every checkpoint shows the same; with a known truth where there is any."""
    known = [p for p in predictions if p.question.truth is not None]
    return sorted(known or predictions, key=lambda p: p.question.order)[:number]


def _scores(results: dict[str, Result]) -> bytes:
    content = {
        "scores": [score.to_json() for result in results.values() for score in result.scores],
        "details": {name: result.details for name, result in results.items()},
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _write_examples(
    context: StepContext, student: Student, root: Path, examples: list[Prediction], results: dict[str, Result]
) -> None:
    """Write examples.json and its pictures: the image as it is, and the attention over it."""
    correct = {}
    if "existence" in results:
        table = results["existence"].table
        correct = dict(zip(table["id"].to_pylist(), table["correct"].to_pylist(), strict=True))
    rows = []
    for number, prediction in enumerate(examples):
        question, attention = prediction.question, prediction.attention
        picture = open_picture(root, question)
        drawn = heat_over(picture, attention.maps[MAP_LAYER], _geometry(student, question), _true_mask(question))
        map_file, picture_file = f"maps/{number:03d}.png", f"maps/{number:03d}-image.png"
        context.staging.write_bytes(map_file, _png(drawn))
        context.staging.write_bytes(picture_file, _png(picture))
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
    context.staging.write_bytes("examples.json", (json.dumps({"examples": rows}, indent=2) + "\n").encode())


def _png(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, format="PNG", optimize=True)
    return sink.getvalue()
