"""artifacts, show, lineage and verify on real artifacts; a flipped byte is found and named."""

import os
import re
from pathlib import Path

import pytest

from flows.explain import differences, verdicts
from pipeline.artifacts.spec import StepSpec, short
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.job import job_of
from pipeline.steps import context as context_module
from tests.flows.cli import Result, agevlm
from tests.flows.toy import STEP, toy_plan, toy_site

STEPS = {"a": ({}, ()), "b": ({"rows": 5}, ("a",)), "c": ({}, ("a", "b"))}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Artifact]:
    """Three artifacts: b is made from a, and c from both."""
    monkeypatch.setitem(context_module.STEPS, "toy", STEP)
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path))
    monkeypatch.delenv("AGEVLM_STORE", raising=False)
    plan = toy_plan(STEPS)
    site = toy_site(tmp_path / "artifacts")
    return {step.key: context_module.run_job(job_of(step, plan, site)) for step in plan}


def line_of(result: Result, word: str) -> str:
    return next(line for line in result.output.splitlines() if word in line)


def test_artifacts_are_listed(made: dict[str, Artifact]) -> None:
    result = agevlm("artifacts", "--kind", "toy")
    assert result.code == 0
    for key, artifact in made.items():
        assert re.search(rf"toy +{key} +{short(artifact.ref.id)} ", result.output)
    assert "3 artifacts" in result.output
    assert "0 artifacts" in agevlm("artifacts", "--kind", "masks").output


def test_show_tells_everything(made: dict[str, Artifact]) -> None:
    result = agevlm("show", made["b"].ref.id[:8])
    assert result.code == 0
    for words in (made["b"].ref.id, "5 in, 4 out, 1 rejected (1 odd)", "it was odd", "line.txt", str(made["a"].ref)):
        assert words in result.output
    assert made["b"].manifest.sha256 in result.output
    raw = agevlm("show", made["b"].ref.id, "--manifest")
    assert raw.output.encode() == made["b"].manifest.to_bytes()


def test_an_unknown_id_is_one_clear_message(made: dict[str, Artifact]) -> None:
    result = agevlm("show", "ffff0000ffff")
    assert result.code == 1
    assert result.error.startswith("ArtifactError: no artifact's id starts with 'ffff0000ffff'")
    assert "Traceback" not in result.error


def test_lineage_reaches_every_ancestor(made: dict[str, Artifact]) -> None:
    result = agevlm("lineage", made["c"].ref.id)
    assert result.code == 0
    assert result.output.splitlines()[0].startswith("toy/c")
    # a is an input of c and of b; below b it is only pointed at.
    assert result.output.count(short(made["a"].ref.id)) == 2
    assert "(above)" in result.output


def test_verify_finds_a_flipped_byte_and_names_the_file(made: dict[str, Artifact]) -> None:
    assert agevlm("verify", "--all").code == 0
    path = Path(made["b"].path("line.txt"))
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    result = agevlm("verify", "--all")
    assert result.code == 1
    assert str(path) in line_of(result, "BAD")
    assert "1 bad files" in result.output
    assert agevlm("verify", made["a"].ref.id).code == 0
    assert agevlm("verify", made["b"].ref.id[:10]).code == 1


def test_verify_finds_missing_files_and_damaged_manifests_and_goes_on(made: dict[str, Artifact]) -> None:
    os.unlink(made["a"].path("line.txt"))
    Path(made["b"].store.manifest_path(made["b"].ref)).write_text("{}")
    result = agevlm("verify", "--all")
    assert result.code == 1
    assert len([line for line in result.output.splitlines() if line.startswith("BAD")]) == 2
    assert "is missing" in line_of(result, "toy/a")
    assert "damaged" in line_of(result, "toy/b")
    assert "3 artifacts" in result.output  # c was looked at too


@pytest.mark.parametrize("arguments", [[], ["abc", "--all"]])
def test_verify_wants_one_or_all(made: dict[str, Artifact], arguments: list[str]) -> None:
    result = agevlm("verify", *arguments)
    assert result.code == 1
    assert "either an artifact's id or --all" in result.error


def test_a_plan_says_what_is_there_and_what_changed(made: dict[str, Artifact], tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    same = {v.step.key: v for v in verdicts(toy_plan(STEPS), store)}
    assert {v.condition for v in same.values()} == {"cached"}
    changed = {v.step.key: v for v in verdicts(toy_plan({**STEPS, "b": ({"rows": 6}, ("a",))}), store)}
    assert changed["a"].condition == "cached"
    assert changed["b"].condition == changed["c"].condition == "to run"
    assert "rows 5 -> 6" in changed["b"].why
    assert changed["c"].why.endswith("input b")
    new = verdicts(toy_plan({"z": ({}, ())}), store)
    assert [v.why for v in new] == ["never made"]


def test_differences_are_named_with_both_values() -> None:
    old = StepSpec(step="s", revision=1, params={"gates": {"min": 0.5}, "same": 1}, inputs={"x": "1", "y": "2"})
    new = StepSpec(step="s", revision=2, params={"gates": {"min": None}, "same": 1, "new": "n"}, inputs={"x": "3"})
    assert differences(old, new) == [
        "gates.min 0.5 -> none",
        "new none -> n",
        "revision 1 -> 2",
        "input x",
        "input y",
    ]
