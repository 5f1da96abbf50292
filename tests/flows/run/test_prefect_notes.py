"""A run's artifacts in the Prefect UI, as text."""

import base64
import html
import io
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from PIL import Image

from flows.run import prefect_notes
from flows.run.prefect_notes import (
    NOTE_PIXELS,
    Notes,
    artifact_key,
    attempt_note,
    leave_contact_sheet,
    run_note,
    step_note,
    steps_table,
)
from flows.run.preparation import Prepared
from flows.run.run_file import RunRecord, StepRecord
from flows.run.step_run import StepResult, cached
from pipeline.artifacts.store import ArtifactStore
from pipeline.masks.config import MaskGates
from pipeline.schemas import CONTACT_SHEET
from pipeline.steps import runner
from pipeline.steps.runner import run_job
from tests.flows.fixtures_fake_ray import fake_settings
from tests.pipeline.masks.fixtures_dataset import make_dataset
from tests.pipeline.plan.fixtures_toy_steps import STEP, toy_locations, toy_plan
from tests.pipeline.steps.test_masks import publish_segments


@pytest.mark.parametrize(
    ("parts", "key"),
    [(("miniature", "stage4_lm"), "miniature-stage4-lm"), (("My.Recipe", "Evaluate/X_"), "my-recipe-evaluate-x")],
)
def test_keys_are_what_prefect_accepts(parts: tuple[str, ...], key: str) -> None:
    assert artifact_key(*parts) == key


def test_the_note_of_a_step_accounts_for_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runner.STEPS, "toy", STEP)
    plan = toy_plan({"a": ({}, ()), "b": ({}, ("a",))})
    store = ArtifactStore(str(tmp_path))
    prepared = Prepared("tiny", plan, toy_locations(tmp_path), store, None)
    run_job(prepared.job(plan["a"]))
    artifact = run_job(prepared.job(plan["b"]).model_copy(update={"submission_id": "tiny-b-r1"}))
    note = step_note(plan["b"], cached(artifact), fake_settings(tmp_path))
    for line in (
        "## b: cached",
        f"| id | `{plan['b'].id}` |",
        "| in | 3 rows |",
        "| out | 2 rows |",
        "| rejected | 1 rows |",
        "| odd | 1 |",
        "| mean | 0.5 |",
        f"| a | `{plan['a'].ref}` |",
        "| Ray job | [tiny-b-r1](http://ray.test/#/jobs/tiny-b-r1) |",
        f"| folder | `{artifact.location()}` |",
        f"| in a shell | `agevlm show {plan['b'].id[:12]}` |",
    ):
        assert line in note.split("\n")


@pytest.mark.parametrize(
    ("store", "log"), [("/store", "/store/runs/r1.events.jsonl"), ("s3://b/s", "s3://b/s/runs/r1.events")]
)
def test_the_note_of_a_run_links_to_jobs_artifacts_and_events(tmp_path: Path, store: str, log: str) -> None:
    settings = fake_settings(tmp_path).model_copy(update={"store": store})
    steps = (
        StepRecord(key="a", id="0" * 64, kind="toy", name="a", state="completed", job="tiny-a-r1"),
        StepRecord(key="b", id="1" * 64, kind="toy", name="b"),
    )
    record = RunRecord(flow_run_id="r1", flow_run="brave-owl", recipe="tiny", steps=steps, report="/store/report.html")
    lines = run_note(record, settings).split("\n")
    assert f"| events | `{log}`, or `agevlm events brave-owl` |" in lines
    assert "| a | completed | `toy/a/000000000000` | [tiny-a-r1](http://ray.test/#/jobs/tiny-a-r1) |" in lines
    assert "| b | pending | `toy/b/111111111111` |  |" in lines
    assert "| report | `/store/report.html` |" in lines
    assert any("(http://ray.test/#/jobs)" in line for line in lines)


def test_the_note_of_a_failure_says_what_happened_in_one_cell(tmp_path: Path) -> None:
    plan = toy_plan({"a": ({}, ())})
    note = step_note(plan["a"], StepResult("failed", "two\nlines | and a bar", None, "j-r1"), fake_settings(tmp_path))
    assert "| what happened | two lines \\| and a bar |" in note.split("\n")
    assert "#/jobs/j-r1" in note


def test_the_table_has_a_row_per_step_and_messages_only_of_trouble() -> None:
    steps = (
        StepRecord(key="a", id="0" * 64, kind="toy", name="a", state="completed", message="fine", rejected={"x": 2}),
        StepRecord(key="b", id="1" * 64, kind="toy", name="b", state="failed", message="bad"),
    )
    rows = steps_table(RunRecord(flow_run_id="r", recipe="tiny", steps=steps))
    assert [(row["step"], row["rejected"], row["message"]) for row in rows] == [("a", 2, ""), ("b", 0, "bad")]


def test_a_server_that_takes_no_note_costs_no_step() -> None:
    said: list[str] = []

    def leave() -> None:
        raise httpx.ConnectError("refused")

    attempt_note(leave, said.append)
    assert said == ["a note could not be left in the Prefect UI: ConnectError: refused"]


def test_the_contact_sheet_is_a_note_with_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(prefect_notes, "create_markdown_artifact", lambda text, **facts: left.append((text, facts)))
    dataset = make_dataset(tmp_path, scenes=3)
    masks = run_job(dataset.masks_job(publish_segments(dataset, {}), MaskGates()))
    step = toy_plan({"masks-pretrain": ({}, ())})["masks-pretrain"]
    leave_contact_sheet("Mini.1", step, cached(masks))
    leave_contact_sheet("Mini.1", step, cached(dataset.subset))
    leave_contact_sheet("Mini.1", step, StepResult("failed", "no"))
    [(text, facts)] = left
    assert facts["key"] == "mini-1-masks-pretrain-contact-sheet"
    assert masks.location(CONTACT_SHEET) in text
    found = re.search(r"!\[Contact sheet\]\(data:image/jpeg;base64,([A-Za-z0-9+/=]+)\)", text)
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        assert max(picture.size) == NOTE_PIXELS
    assert len(text) < 400_000


@pytest.mark.parametrize(
    "evil",
    [
        "[x](javascript:alert(1))",
        "![x](http://elsewhere.example/x)",
        "<script>alert(1)</script>",
        "`a` | *b* \\",
        "&lt;b",
    ],
)
def test_texts_of_data_are_no_links_pictures_or_html_in_a_note(evil: str, tmp_path: Path) -> None:
    plan = toy_plan({"a": ({}, ())})
    note = step_note(plan["a"], StepResult("failed", evil, None, "j-r1"), fake_settings(tmp_path))
    (line,) = [line for line in note.split("\n") if line.startswith("| what happened")]
    cell = line.removeprefix("| what happened | ").removesuffix(" |")
    for mark in "[]<>|`*!":
        assert mark not in re.sub(r"\\.", "", cell)
    assert html.unescape(re.sub(r"\\(.)", r"\1", cell)) == evil


def test_notes_that_are_left_again_end_with_the_first_that_fails() -> None:
    # At a server that hangs each note takes seconds, and a run may have kept many.
    asked: list[str] = []

    def note(name: str) -> Callable[[], None]:
        def leave() -> None:
            asked.append(name)
            raise httpx.ConnectError("away")

        return leave

    notes = Notes()
    for name in "abc":
        notes.leave(note(name), lambda line: None)
    assert asked == ["a", "b", "c"]
    notes.leave_again()
    assert asked == ["a", "b", "c", "a"]
