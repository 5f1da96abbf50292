"""The step evaluate on a small untrained student: every question is scored or rejected, and all files are written."""

import io
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.errors import ConfigError, DataError
from pipeline.artifacts.store import Artifact
from pipeline.evaluation.attention import ATTENTION
from pipeline.evaluation.existence import PREDICTIONS
from pipeline.steps.runner import run_job
from pipeline.training.config import StudentConfig
from pipeline.training.student import join_backbones, save_student
from tests.pipeline.steps.fixtures_store import Bench, read_json

SCENES = 6


@pytest.fixture(scope="module")
def bench(backbones: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), backbones)


@pytest.fixture(scope="module")
def inputs(bench: Bench, backbones: dict[str, str]) -> dict[str, Any]:
    student = StudentConfig(cross_attention_layers=(1, 4))
    model, processor = join_backbones(student, backbones["text"], backbones["vision"], 0)
    folder = bench.root / "checkpoint"
    save_student(model, processor, folder / "model")
    (folder / "stage.json").write_text('{"system_prompt": null}')
    return {"checkpoint": bench.publish("checkpoint", "stage4", folder), "inventory": bench.evaluation(SCENES)}


def evaluate(bench: Bench, inputs: dict[str, Any], share: float = 0.05, **config: Any) -> Artifact:
    params = {"evaluation": {"max_new_tokens": 4, **config}}
    return run_job(bench.job("evaluate", "evaluation", params, inputs, share=share))


@pytest.fixture(scope="module")
def made(bench: Bench, inputs: dict[str, Any]) -> Artifact:
    return evaluate(bench, inputs, batch=5, attention_examples=3)


def table(artifact: Artifact, file: str) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(artifact.local() / file)


def test_every_question_is_scored_or_rejected_with_a_reason(made: Artifact) -> None:
    counts = made.manifest.counts
    assert counts.unit == "question"
    assert counts.rejected == {"text_only": 1}
    assert counts.rows_in == counts.rows_out + 1
    assert table(made, "rejects.parquet").to_pylist()[0]["id"] == "text/0"
    predictions = table(made, "predictions.parquet")
    assert predictions.schema.equals(PREDICTIONS)
    assert len(predictions) == counts.rows_out == len(set(predictions["id"].to_pylist()))


def test_the_attention_of_an_untrained_student_is_near_chance(made: Artifact) -> None:
    """Maps are distributions over valid cells, and zero elsewhere."""
    attention = table(made, "attention.parquet")
    assert attention.schema.equals(ATTENTION)
    assert set(attention["layer"].to_pylist()) == {0, 1}
    mass, chance = (np.array(attention[name].to_pylist()) for name in ("mass", "chance"))
    assert ((mass >= 0) & (mass <= 1 + 1e-6)).all()
    assert np.abs(mass - chance).mean() < 0.1
    assert max(attention["padding"].to_pylist()) == 0


def test_scores_have_intervals_and_the_names_that_the_report_reads(made: Artifact) -> None:
    scores = read_json(made.local() / "scores.json")["scores"]
    assert {"accuracy", "in_mask", "pointing"} <= {s["metric"] for s in scores}
    for score in scores:
        assert score["low"] <= score["value"] <= score["high"]
        assert score["n"] > 0
        assert made.manifest.statistics[f"{score['benchmark']}.{score['metric']}"] == pytest.approx(
            score["value"], abs=1e-6
        )


def test_examples_are_pictures_of_the_same_questions_for_every_student(
    bench: Bench, inputs: dict[str, Any], made: Artifact
) -> None:
    other = evaluate(bench, inputs, batch=16, attention_examples=3, benchmarks=["existence"])
    mine, theirs = (read_json(a.local() / "examples.json")["examples"] for a in (made, other))
    assert [e["id"] for e in mine] == [e["id"] for e in theirs]
    assert len(mine) == 3
    for example in mine:
        for name in ("map", "image"):
            with made.open(example[name]) as stream:
                assert Image.open(io.BytesIO(stream.read())).size[0] > 0
        assert (example["mass"] is None) == (not example["present"])
    assert other.matching("attention") == []


def test_batches_do_not_change_answers_or_attention(bench: Bench, inputs: dict[str, Any], made: Artifact) -> None:
    alone = evaluate(bench, inputs, batch=1, attention_examples=0)
    assert read_json(alone.local() / "examples.json") == {"examples": []}
    one, many = (
        {row["id"]: row["answer"] for row in table(a, "predictions.parquet").to_pylist()} for a in (alone, made)
    )
    assert one == many
    first, second = (
        {(row["id"], row["layer"]): row["mass"] for row in table(a, "attention.parquet").to_pylist()}
        for a in (alone, made)
    )
    assert first.keys() == second.keys()
    assert max(abs(first[key] - second[key]) for key in first) < 1e-5


@contextmanager
def away(path: Path) -> Iterator[None]:
    """Hide this file or folder for a `with` block."""
    hidden = path.with_name(f"{path.name}.away")
    path.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(path)


def test_questions_that_cannot_be_asked_do_not_affect_others(bench: Bench, inputs: dict[str, Any]) -> None:
    images = bench.root / "images"
    whole = (images / "0.jpg").read_bytes()
    (images / "0.jpg").write_bytes(b"other")
    with away(images / "1.jpg"):
        artifact = evaluate(bench, inputs, share=0.4, batch=8, attention_examples=0)
    counts = artifact.manifest.counts
    assert counts.rejected == {"image_changed": 4, "missing_image": 4, "text_only": 1}
    assert counts.rows_in == counts.rows_out + 9
    with away(images / "1.jpg"), pytest.raises(DataError, match=r"8 of 24 questions of data\.evaluation were rejected"):
        evaluate(bench, inputs, share=0.3, batch=7, attention_examples=0)
    (images / "0.jpg").write_bytes(whole)


def test_without_any_picture_there_is_no_evaluation(bench: Bench, inputs: dict[str, Any]) -> None:
    hidden = [away(file) for file in sorted((bench.root / "images").iterdir())]
    with ExitStack() as stack:
        for file in hidden:
            stack.enter_context(file)
        with pytest.raises(DataError, match=r"(?s)24 of 24 .* nothing would be left.*missing_image: 24"):
            evaluate(bench, inputs, share=1.0)


def test_without_a_question_about_a_picture_there_is_no_evaluation(inputs: dict[str, Any], tmp_path: Path) -> None:
    bench = Bench(tmp_path, {})
    nothing = bench.evaluation(0)
    checkpoint = bench.publish("checkpoint", "stage4", tmp_path / "inventory")
    with pytest.raises(DataError, match=r"none of the 1 turns .* \(text_only 1\)"):
        evaluate(bench, {"checkpoint": checkpoint, "inventory": nothing})


def test_benchmarks_without_a_question_to_score_are_refused(bench: Bench, inputs: dict[str, Any]) -> None:
    folder = bench.root / "unknown"
    shutil.copytree(bench.root / "inventory", folder)
    shutil.rmtree(folder / "truth")
    without_truth = bench.publish("inventory", "evaluation", folder)
    with pytest.raises(ConfigError, match=r"\['attention'\]: no question .* add 'existence'"):
        evaluate(bench, {**inputs, "inventory": without_truth}, benchmarks=["attention"])
