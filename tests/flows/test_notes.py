"""What a run leaves in the Prefect UI, as text."""

from pathlib import Path

import httpx
import pytest

from flows.notes import artifact_key, attempt_note, step_note, steps_table
from flows.preparation import Prepared
from flows.run_state import RunRecord, StepRecord
from flows.step_run import StepResult, cached
from pipeline.artifacts.store import ArtifactStore
from pipeline.steps import context as steps_context
from pipeline.steps.context import run_job
from tests.flows.fakes import fake_settings
from tests.flows.toy import STEP, toy_plan, toy_site


@pytest.mark.parametrize(
    ("parts", "key"),
    [(("miniature", "stage4_lm"), "miniature-stage4-lm"), (("My.Recipe", "Evaluate/X_"), "my-recipe-evaluate-x")],
)
def test_keys_are_what_prefect_accepts(parts: tuple[str, ...], key: str) -> None:
    assert artifact_key(*parts) == key


def test_the_note_of_a_step_accounts_for_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(steps_context.STEPS, "toy", STEP)
    monkeypatch.setenv("AGEVLM_SUBMISSION_ID", "tiny-b-r1")
    plan = toy_plan({"a": ({}, ()), "b": ({}, ("a",))})
    store = ArtifactStore(str(tmp_path))
    prepared = Prepared("tiny", plan, toy_site(tmp_path), store, None)
    run_job(prepared.job(plan["a"]))
    artifact = run_job(prepared.job(plan["b"]))
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
    ):
        assert line in note.split("\n")


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
