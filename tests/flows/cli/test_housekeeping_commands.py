"""gc, tag, tags, untag and diff as a user sees them; and names in place of ids in every command."""

import json
import os
import time
from pathlib import Path

import pytest

from flows.run.run_file import RunRecord, StepRecord, write_run
from pipeline.artifacts.removal import RemovalLock
from pipeline.artifacts.spec import short
from pipeline.artifacts.store import Artifact, ArtifactStore
from tests.flows.cli.fixtures_command_line import agevlm
from tests.pipeline.fixtures_finished_run import Chain

DAY = 86_400


@pytest.fixture
def chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Chain, Chain]:
    """The artifacts of two runs, 60 days old; the second has other weights of SAM."""
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path))
    monkeypatch.delenv("AGEVLM_STORE", raising=False)
    root = tmp_path / "artifacts"
    found = Chain(root, "age_vlm", fingerprints={"weights.sam": "older"}), Chain(root, "age_vlm")
    then = time.time() - 60 * DAY
    for path in root.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)
    return found


def kinds(store: ArtifactStore) -> list[Artifact]:
    return list(store.artifacts())


def test_gc_shows_and_then_removes(chains: tuple[Chain, Chain]) -> None:
    store = chains[0].store
    # Both runs began in the same second, so either can hold the newest artifact of a kind: this one decides it.
    assert agevlm("tag", chains[1].last.ref.id, "release").code == 0
    before = len(kinds(store))
    dry = agevlm("gc", "--results", "--recipe", "miniature")
    assert dry.code == 0, dry.error
    assert "Nothing was removed" in dry.output
    assert len(kinds(store)) == before
    told = json.loads(agevlm("gc", "--results", "--json").output)
    gone = {thing["path"] for thing in told["things"] if not thing["keep"] and thing["what"] == "artifact"}
    assert gone
    assert not any(chains[1].made["stage3"].ref.path == path for path in gone)
    done = agevlm("gc", "--results", "--delete")
    assert done.code == 0, done.error
    assert "Removed " in done.output
    assert {artifact.ref.path for artifact in kinds(store)}.isdisjoint(gone)
    assert len(kinds(store)) == before - len(gone)
    assert agevlm("verify", "--all").code == 0
    assert "stale" not in agevlm("verify", "--all").output
    again = json.loads(agevlm("gc", "--results", "--json").output)
    assert all(thing["keep"] for thing in again["things"])


def test_gc_keeps_what_an_open_run_has_and_waits_for_its_plan(chains: tuple[Chain, Chain]) -> None:
    store = chains[0].store
    steps = tuple(
        StepRecord(key=key, id=made.ref.id, kind=made.ref.kind, name=made.ref.name)
        for chain in chains
        for key, made in chain.made.items()
    )
    write_run(store, RunRecord(flow_run_id="run-1", recipe="miniature", steps=steps))
    told = json.loads(agevlm("gc", "--results", "--json").output)
    assert all(thing["keep"] for thing in told["things"] if thing["what"] == "artifact")
    write_run(store, RunRecord(flow_run_id="run-2", recipe="miniature"))
    refused = agevlm("gc", "--delete")
    assert refused.code == 1
    assert "is being planned" in refused.error
    with RemovalLock(store):
        pass  # the refused one gave its lock back


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1.5d", "1w", "9999999d"])
def test_an_age_that_is_none_is_refused(chains: tuple[Chain, Chain], age: str) -> None:
    assert f"--older-than {age}: write a whole number" in agevlm("gc", f"--older-than={age}").error


def test_names_work_where_ids_do(chains: tuple[Chain, Chain]) -> None:
    made = chains[0].made
    assert agevlm("tag", made["masks-pretrain"].ref.id, "good").code == 0
    assert made["masks-pretrain"].ref.id in agevlm("show", "good").output
    assert agevlm("lineage", "good").output.startswith("masks/pretrain")
    assert "1 artifacts" in agevlm("verify", "good").output
    assert "good" in agevlm("tags").output
    assert json.loads(agevlm("tags", "--json").output)[0]["target"]["id"] == made["masks-pretrain"].ref.id
    assert "--move" in agevlm("tag", "stage1", "good").error
    assert "before masks/pretrain" in agevlm("tag", "stage1", "good", "--move").output
    for taken in ("stage1", "masks", "latest", "segment-pretrain", "cafe"):
        assert agevlm("tag", "stage1", taken).code == 1, taken
    assert agevlm("untag", "good").code == 0
    assert "no artifact, tag or step is called 'good'" in agevlm("show", "good").error


def test_diff_finds_the_cause(chains: tuple[Chain, Chain]) -> None:
    one, two = (chain.made["masks-pretrain"].ref.id for chain in chains)
    told = json.loads(agevlm("diff", one, two, "--json").output)
    assert not told["same_content"]
    assert told["same_files"]
    assert told["changes"]["parameters of inputs"] == {"segments: sam": {"before": "older", "after": "sam-weights"}}
    assert "Same data files" in agevlm("diff", one, two).output
    assert "Same content: sha256" in agevlm("diff", one, one).output
    other = agevlm("diff", one, chains[0].made["evaluate-age_vlm"].ref.id)
    assert other.code == 0
    assert "A masks and a evaluation" in other.output
    assert "existence.accuracy.value" in other.output
    assert short(one) in other.output or "masks/pretrain" in other.output
