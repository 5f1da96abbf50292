"""evaluate: a checkpoint's answers and attention on held-out questions, scored by the recipe's benchmarks.

The artifact has the answers in shards, `scores.json`, one table per benchmark, `examples.json` with the attention maps
of a few questions below `maps/` (the same questions for every checkpoint), and the questions that could not be asked.
"""

import json
from collections import Counter
from collections.abc import Iterator

import pyarrow.parquet as pq
import torch
import transformers
from PIL import Image

from model.errors import ConfigError, DataError, ImageError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.shards import Seal
from pipeline.artifacts.staging import REJECTS, Reject, rejects_table, table_bytes
from pipeline.evaluation.answers import Answer, answers_table, read_answers
from pipeline.evaluation.examples import choose_examples, example_files, open_picture, true_cells
from pipeline.evaluation.questions import Attention, Prediction, Question, read_questions
from pipeline.evaluation.scores import Result
from pipeline.evaluation.student import Student
from pipeline.evaluation.table import BENCHMARKS
from pipeline.plan.parameters import EvaluateParams
from pipeline.schemas import MODEL, STAGE_FILE, part_name
from pipeline.sources.images.store import ImageStore
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.reject_limit import check_reject_limit, earlier_commits, rejected_rows
from pipeline.training.student import load_student

BATCHES = 16  # of a shard: the unit of commit and of resume


def run(context: StepContext) -> Outcome:
    """Ask every question and score the answers. Raises DataError, ArtifactError or ConfigError.

    The reject limit counts questions about an image. Turns without an image or a question are rejected too, but do not
    count in it.
    """
    config = context.params(EvaluateParams).evaluation
    questions, unasked = read_questions(context.input_path("inventory"))
    if not questions:
        raise DataError(
            f"none of the {len(unasked)} turns of data.evaluation asks about an image ({_counted(unasked)}); "
            "give it records with images and questions"
        )
    student, device = _student(context, config.max_new_tokens)
    kept, refused = _askable(questions, student)
    pieces = [kept[start : start + config.batch * BATCHES] for start in range(0, len(kept), config.batch * BATCHES)]
    seals = _answer(context, student, pieces, config.batch, len(questions), unasked, refused)
    refused += rejected_rows(seals)
    _check_limit(refused, len(questions), context.locations.max_reject_share)
    # Scores are computed from the committed answers, so that a rerun after a crash gives the same scores.
    predictions = _predictions(context, student, seals, {q.id: q for q in kept})

    results: dict[str, Result] = {name: BENCHMARKS[name].score(predictions) for name in config.benchmarks}
    if not any(result.scores for result in results.values()):
        raise ConfigError(
            f"evaluation.benchmarks = {list(config.benchmarks)}: no question of data.evaluation has what they need "
            "(attention needs the true mask of an object that is in the image); add 'existence'"
        )
    rejected = [*unasked, *refused]
    examples = choose_examples(predictions, config.attention_examples)
    images = context.images()
    summary = {
        **{BENCHMARKS[name].table_file: table_bytes(result.table) for name, result in results.items()},
        "scores.json": _scores(results),
        **example_files(student, images, examples, results),
        REJECTS: table_bytes(rejects_table(rejected)),
    }
    seals.append(context.staging.commit_summary("scores", summary, seals))
    scored = frozenset[str]().union(*(result.scored for result in results.values()))
    counts = Counts(
        unit=context.step.unit,
        rows_in=len(questions) + len(unasked),
        rows_out=len(scored),
        rejected=_reasons(rejected),
        not_selected=len(predictions) - len(scored),
    )
    statistics = {
        score.benchmark + "." + score.metric: round(score.estimate.value, 6)
        for result in results.values()
        for score in result.scores
    }
    return Outcome(counts, statistics, device, seals)


def _check_limit(refused: list[Reject], total: int, share: float) -> None:
    remedy = "restore the images of data.evaluation that changed since its inventory, or raise max_reject_share"
    check_reject_limit("questions of data.evaluation", _reasons(refused), total, share, remedy)


def _reasons(rejected: list[Reject]) -> dict[str, int]:
    """Reason -> number of rejects, sorted by name."""
    return dict(sorted(Counter(reason for _, reason, _ in rejected).items()))


def _counted(rejected: list[Reject]) -> str:
    return ", ".join(f"{reason} {number}" for reason, number in _reasons(rejected).items())


def _student(context: StepContext, max_new_tokens: int) -> tuple[Student, str]:
    """The checkpoint's model with the system prompt that it was trained with, and the name of its device."""
    transformers.logging.disable_progress_bar()
    device = torch.device("cuda" if context.resources.gpus > 0 else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(context.resources.threads)
    context.input_path("checkpoint", f"{MODEL}/")  # not its optimizer's state, which is twice as large
    folder = context.input_path("checkpoint", STAGE_FILE)
    model, processor = load_student(folder / MODEL)
    stage = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Student(model.to(device), processor, max_new_tokens, stage.get("system_prompt")), name


def _askable(questions: list[Question], student: Student) -> tuple[list[Question], list[Reject]]:
    """The questions that can be asked, short ones first, and the others with the reason.

    A batch is padded to its longest row, so questions of similar length go together. Questions of equal length keep the
    inventory's order.
    """
    kept, rejected = [], []
    for question in questions:
        refusal = student.refusal(question.text)
        if refusal:
            rejected.append((question.id, *refusal))
        else:
            kept.append(question)
    return sorted(kept, key=lambda q: len(q.text)), rejected


def _answer(
    context: StepContext,
    student: Student,
    pieces: list[list[Question]],
    batch: int,
    total: int,
    unasked: list[Reject],
    refused: list[Reject],
) -> list[Seal]:
    """Commit the answers to each piece of the questions.

    `unasked`: turns without an image or a question; `refused`: questions that cannot be asked, which count in the
    reject limit. Raises DataError as soon as the limit is exceeded, after the piece that did it was committed.
    """
    shards, share = context.staging.shards(), context.locations.max_reject_share
    names = [part_name(number, len(pieces)).removesuffix(".parquet") for number in range(len(pieces))]
    seals = earlier_commits(shards, names, total, share, _reasons(refused))
    images = context.images()
    done = len(unasked) + len(refused) + sum(len(pieces[number]) for number in seals)
    every = len(unasked) + len(refused) + sum(map(len, pieces))
    for number, piece in enumerate(pieces):
        if number in seals:
            continue
        asked: list[Question] = []
        answers: list[Answer] = []
        unusable: list[Reject] = []
        for questions, pictures in _batches(piece, batch, images, unusable):
            texts, maps_bls, valid_bs = student.ask(pictures, [q.text for q in questions])
            asked += questions
            answers += zip(texts, maps_bls, valid_bs, strict=True)
            context.progress.update(done + len(answers) + len(unusable), every)
        content = table_bytes(answers_table(asked, answers))
        file = part_name(number, len(pieces), "answers")
        seals[number] = shards.commit(names[number], {file: content}, len(asked), {"rejects": unusable})
        done += len(piece)
        _check_limit([*refused, *rejected_rows(seals.values())], total, share)
    return [seals[number] for number in range(len(pieces))]


def _batches(
    questions: list[Question], size: int, images: ImageStore, rejected: list[Reject]
) -> Iterator[tuple[list[Question], list[Image.Image]]]:
    """Batches of questions with their pictures. Those whose picture cannot be used are added to `rejected`."""
    batch: list[Question] = []
    pictures: list[Image.Image] = []
    for question in questions:
        try:
            pictures.append(open_picture(images, question))
        except ImageError as error:
            rejected.append((question.id, error.reason, str(error)))
            continue
        batch.append(question)
        if len(batch) == size:
            yield batch, pictures
            batch, pictures = [], []
    if batch:
        yield batch, pictures


def _predictions(
    context: StepContext, student: Student, seals: list[Seal], questions: dict[str, Question]
) -> list[Prediction]:
    """The committed answers with their questions and the true objects' cells."""
    predictions, shards = [], context.staging.shards()
    for seal in seals:
        with context.store.fs.open(shards.path(seal.files[0].path), "rb") as stream:
            table = pq.read_table(stream)
        for question_id, (answer, maps, valid) in read_answers(table):
            question = questions[question_id]
            attention = Attention(maps, valid, true_cells(student, question))
            predictions.append(Prediction(question, answer, attention))
    return predictions


def _scores(results: dict[str, Result]) -> bytes:
    content = {
        "scores": [score.to_json() for result in results.values() for score in result.scores],
        "details": {name: result.details for name, result in results.items()},
    }
    return (json.dumps(content, indent=2) + "\n").encode()
