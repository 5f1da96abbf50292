"""The step evaluate on a small untrained student: every question is accounted for, and what is written is whole."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.artifacts.store import Artifact
from pipeline.evaluation.attention import ATTENTION
from pipeline.evaluation.existence import PREDICTIONS
from pipeline.steps.context import run_job
from pipeline.training.build import join_backbones
from pipeline.training.checkpoint import save_student
from pipeline.training.config import StudentConfig
from tests.pipeline.steps.stores import Bench, read_json

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


def evaluate(bench: Bench, inputs: dict[str, Any], **config: Any) -> Artifact:
    return run_job(bench.job("evaluate", "evaluation", {"evaluation": {"max_new_tokens": 4, **config}}, inputs))


@pytest.fixture(scope="module")
def made(bench: Bench, inputs: dict[str, Any]) -> Artifact:
    return evaluate(bench, inputs, batch=5, attention_examples=3)


def table(artifact: Artifact, file: str) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(artifact.local() / file)


def test_every_question_is_scored_or_rejected_by_name(made: Artifact) -> None:
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


def test_scores_have_errors_and_names_that_the_report_reads(made: Artifact) -> None:
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


def test_questions_that_cannot_be_asked_cost_only_themselves(bench: Bench, inputs: dict[str, Any]) -> None:
    (bench.root / "images" / "0.jpg").write_bytes(b"other")
    (bench.root / "images" / "1.jpg").rename(Path(bench.root) / "away.jpg")
    try:
        artifact = evaluate(bench, inputs, batch=8, attention_examples=0)
    finally:
        (Path(bench.root) / "away.jpg").rename(bench.root / "images" / "1.jpg")
    counts = artifact.manifest.counts
    assert counts.rejected["missing_image"] == 4
    assert counts.rejected["image_changed"] == 4
    assert counts.rows_in == counts.rows_out + 9
