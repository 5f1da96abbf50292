"""artifacts, show, lineage and verify on real artifacts; bad ones are found, named and repaired."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flows.run.preparation import force_attempts
from flows.run.run_file import RunFile
from model.errors import ArtifactError
from pipeline.artifacts.lineage import stale_reason
from pipeline.artifacts.spec import short
from pipeline.artifacts.staging import REJECTS
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.plan.job import job_of
from pipeline.plan.planner import Plan
from pipeline.plan.status import verdicts
from pipeline.steps import runner
from tests.flows.cli.fixtures_command_line import Result, agevlm
from tests.pipeline.plan import fixtures_toy_steps as toy
from tests.pipeline.plan.fixtures_toy_steps import STEP, toy_locations, toy_plan, work

STEPS = {"a": ({}, ()), "b": ({"rows": 5}, ("a",)), "c": ({}, ("a", "b"))}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Artifact]:
    """Three artifacts: b is made from a, and c from both."""
    monkeypatch.setitem(runner.STEPS, "toy", STEP)
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path))
    monkeypatch.delenv("AGEVLM_STORE", raising=False)
    plan = toy_plan(STEPS)
    locations = toy_locations(tmp_path / "artifacts")
    return {step.key: runner.run_job(job_of(step, plan, locations)) for step in plan}


def line_of(result: Result, word: str) -> str:
    return next(line for line in result.output.splitlines() if word in line)


def test_artifacts_are_listed(made: dict[str, Artifact]) -> None:
    result = agevlm("artifacts", "--kind", "toy")
    assert result.code == 0
    for key, artifact in made.items():
        assert re.search(rf"toy +{key} +{short(artifact.ref.id)} ", result.output)
    assert "3 artifacts" in result.output
    assert "0 artifacts" in agevlm("artifacts", "--kind", "masks").output
    assert "--kind mask: there is no such kind; kinds are checkpoint, " in agevlm("artifacts", "--kind", "mask").error


def test_show_tells_everything(made: dict[str, Artifact]) -> None:
    result = agevlm("show", made["b"].ref.id[:8])
    assert result.code == 0
    for words in (made["b"].ref.id, "5 in, 4 out, 1 rejected (1 odd)", "it was odd", "line.txt", str(made["a"].ref)):
        assert words in result.output
    assert made["b"].manifest.sha256 in result.output
    assert made["b"].manifest.content_sha256 in result.output
    raw = agevlm("show", made["b"].ref.id, "--manifest")
    assert raw.output.encode() == made["b"].manifest.to_bytes()


def test_show_goes_on_where_the_rejected_rows_cannot_be_read(made: dict[str, Artifact]) -> None:
    artifact = made["b"]
    file = Path(artifact.path(REJECTS))
    for damage in (lambda: file.write_bytes(b"PAR1 no table PAR1"), file.unlink):
        damage()
        result = agevlm("show", artifact.ref.id)
        assert result.code == 0
        assert f"'agevlm verify {short(artifact.ref.id)}' says more" in " ".join(result.output.split())
        assert "line.txt" in result.output


def test_an_unknown_id_is_one_clear_message(made: dict[str, Artifact]) -> None:
    result = agevlm("show", "ffff0000ffff")
    assert result.code == 1
    assert result.error.startswith("ArtifactError: no artifact's id starts with 'ffff0000ffff'")
    assert "Traceback" not in result.error


def test_lineage_reaches_every_ancestor(made: dict[str, Artifact]) -> None:
    result = agevlm("lineage", made["c"].ref.id)
    assert result.code == 0
    assert result.output.splitlines()[0].startswith("toy/c")
    # a is an input of c and of b; below b it is only referred to.
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


def make(store: ArtifactStore, plan: Plan) -> None:
    """Run the steps of a plan."""
    for step in plan:
        runner.run_job(job_of(step, plan, toy_locations(Path(store.root))))


def flip_a_byte(artifact: Artifact) -> None:
    path = Path(artifact.path("line.txt"))
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def move_away(artifact: Artifact, elsewhere: Path, result: Result) -> None:
    """Move a bad artifact away, as verify says."""
    folder = artifact.store.join(artifact.ref.path)
    assert f"  {folder}" in result.output.splitlines()
    shutil.move(folder, elsewhere)


def test_a_bad_artifact_is_repaired_as_verify_says(made: dict[str, Artifact], tmp_path: Path) -> None:
    store = made["b"].store
    flip_a_byte(made["b"])
    found = agevlm("verify", "--all")
    assert found.code == 1
    assert line_of(found, "BAD").startswith(f"BAD    {made['b'].ref}: line.txt has sha256")
    assert "run its recipe again: it is made again under the same id" in found.output
    move_away(made["b"], tmp_path / "away", found)
    between = agevlm("verify", "--all")
    assert between.code == 0
    assert line_of(between, "stale") == f"stale  {made['c'].ref}: {made['b'].ref} is gone"
    ahead = {v.step.key: v.condition for v in verdicts(toy_plan(STEPS), store)}
    assert ahead == {"a": "cached", "b": "to run", "c": "to check"}
    make(store, toy_plan(STEPS))
    after = agevlm("verify", "--all")
    assert after.code == 0
    assert "stale" not in after.output
    assert "3 artifacts" in after.output
    assert {v.condition for v in verdicts(toy_plan(STEPS), store)} == {"cached"}
    again = store.require(made["b"].ref)
    assert again.manifest.data != made["b"].manifest.data, "it was really made again"


def test_a_stale_artifact_is_replaced_as_verify_says(
    made: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made["b"].store
    flip_a_byte(made["b"])
    move_away(made["b"], tmp_path / "away", agevlm("verify", "--all"))
    # A step that cannot repeat itself bit by bit, as on a GPU.
    monkeypatch.setattr(toy, "work", lambda context: replace(work(context), statistics={"mean": 0.75}))
    make(store, toy_plan(STEPS))
    stale = agevlm("verify", "--all")
    assert stale.code == 0, "a stale artifact is not a bad one"
    assert line_of(stale, "stale  ") == f"stale  {made['c'].ref}: {made['b'].ref} was replaced since it was read"
    assert """-p 'force=["STEP"]'""" in stale.output
    assert "run its recipe again" not in stale.output
    current = {v.step.key: v.condition for v in verdicts(toy_plan(STEPS), store)}
    assert current == {"a": "cached", "b": "cached", "c": "stale"}
    longer = verdicts(toy_plan({**STEPS, "d": ({}, ("c",))}), store)
    assert (longer[-1].condition, longer[-1].why) == ("blocked", "it needs c, which is stale")

    run = RunFile.begin(store, "run", "tiny", None)
    forced = force_attempts(store, lambda attempts: toy_plan(STEPS, attempts), ["c"], run)
    make(store, forced)
    assert {v.condition for v in verdicts(toy_plan(STEPS, store.attempt), store)} == {"cached"}
    assert stale_reason(store, store.require(forced["c"].ref)) == ""
    assert store.get(made["c"].ref) is not None, "the old one stays beside it"


def test_verify_finds_missing_files_and_damaged_manifests_and_goes_on(made: dict[str, Artifact]) -> None:
    os.unlink(made["a"].path("line.txt"))
    os.mkdir(made["a"].path("line.txt"))
    Path(made["b"].store.manifest_path(made["b"].ref)).write_text("{}")
    os.unlink(made["c"].path("line.txt"))
    result = agevlm("verify", "--all")
    assert result.code == 1
    assert len([line for line in result.output.splitlines() if line.startswith("BAD")]) == 3
    assert "line.txt cannot be read (Is a directory)" in line_of(result, "toy/a")
    assert "manifest.json" in line_of(result, "toy/b")
    assert "damaged" in line_of(result, "toy/b")
    assert "is missing" in line_of(result, "toy/c")
    assert "3 artifacts" in result.output  # all of them were checked
    one = agevlm("verify", made["b"].ref.id)
    assert one.code == 1
    assert "damaged" in line_of(one, "BAD")
    assert "1 bad files" in one.output


@pytest.mark.parametrize(("old", "new"), [('"mean":0.5', '"mean":0.9'), ('"rows":5', '"rows":6')])
def test_verify_finds_an_edited_manifest(made: dict[str, Artifact], old: str, new: str) -> None:
    path = Path(made["b"].store.manifest_path(made["b"].ref))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    result = agevlm("verify", "--all")
    assert result.code == 1
    assert str(path) in line_of(result, "BAD")
    assert "it was changed after it was written" in line_of(result, "BAD")
    assert line_of(result, "ok ") == f"ok     {made['a'].ref}"
    assert line_of(result, "stale  ") == f"stale  {made['c'].ref}: {made['b'].ref} has a damaged manifest"


def test_a_damaged_manifest_hides_no_other_artifact(made: dict[str, Artifact]) -> None:
    store = made["b"].store
    Path(store.manifest_path(made["b"].ref)).write_text("{}")
    listed = agevlm("artifacts")
    assert listed.code == 0
    assert "2 artifacts" in listed.output
    assert made["b"].ref.path in listed.output.replace("\n", "")
    others = verdicts(toy_plan({**STEPS, "b": ({"rows": 6}, ("a",))}), store)
    assert [v.condition for v in others] == ["cached", "to run", "to run"]
    with pytest.raises(ArtifactError, match="damaged"):
        verdicts(toy_plan(STEPS), store)


@pytest.mark.parametrize("arguments", [[], ["abc", "--all"]])
def test_verify_wants_one_or_all(made: dict[str, Artifact], arguments: list[str]) -> None:
    result = agevlm("verify", *arguments)
    assert result.code == 1
    assert "either an artifact's id or --all" in result.error
