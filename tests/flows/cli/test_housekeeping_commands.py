"""gc, tag, tags, untag and diff as a user sees them; and names in place of ids in every command."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from flows.cli.gc_needs import needs_of
from flows.run.run_file import RunRecord, StepRecord, write_run
from pipeline.artifacts.contents import contents
from pipeline.artifacts.removal import RemovalLock
from pipeline.artifacts.spec import short
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.artifacts.tags import Tags
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
def test_an_age_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: str) -> None:
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path))
    monkeypatch.delenv("AGEVLM_STORE", raising=False)
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
    taken = (
        "stage1",
        "masks",
        "latest",
        "LATEST",
        "segment-pretrain",
        "masks-instruct",
        "evaluate-ca_baseline",
        "cafe",
    )
    for name in taken:
        assert agevlm("tag", "stage1", name).code == 1, name
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


def needed_by_runs(store: ArtifactStore) -> dict[str, str]:
    things = list(contents(store))
    found = needs_of(store, things, ("miniature",))
    return {id: why for id, why in found.roots.items() if not why.startswith("recipe ")}


def test_the_inputs_of_an_unfinished_job_are_needed(chains: tuple[Chain, Chain]) -> None:
    """It may run on a cluster that this machine does not know; its flow may be over, or never have been."""
    store, masks = chains[0].store, chains[0].made["masks-pretrain"].ref
    for name, made in (("lost", "ab" * 32), ("done", masks.id)):
        ref = {"kind": "checkpoint", "name": "x", "id": made}
        store.write_json(f"jobs/{name}.json", {"ref": ref, "inputs": {"masks": masks.model_dump()}})
    store.write_json("jobs/odd.json", {"ref": None, "inputs": [1]})
    Path(store.join("jobs", "cut.json")).write_bytes(b"{")
    assert needed_by_runs(store) == {masks.id: "job lost, which made nothing yet, reads it"}
    old = needs_of(store, list(contents(store)), ("miniature",), jobs_since=time.time() + DAY)
    assert "job lost" not in str(old.roots)


def test_run_files_of_other_versions_and_cut_ones_are_not_taken_for_closed(chains: tuple[Chain, Chain]) -> None:
    store, masks = chains[0].store, chains[0].made["masks-pretrain"].ref
    newer = {"flow_run_id": "new", "state": "running", "new_field": 1, "steps": [{"id": masks.id}]}
    store.write_json("runs/new.json", newer)
    store.write_json("runs/over.json", newer | {"flow_run_id": "over", "state": "completed"})
    store.write_json("runs/id.events/1-ab.json", {"event": "run_start"})  # an object store has such objects
    assert needed_by_runs(store) == {masks.id: "run new is running"}
    assert agevlm("gc", "--delete", "--recipe", "miniature").code == 0
    for content in (b"", b"[", b"[" * 100_000, b"[]", b'{"state": 1}'):
        Path(store.join("runs", "cut.json")).write_bytes(content)
        refused = agevlm("gc", "--delete", "--recipe", "miniature")
        assert (refused.code, "its file is damaged" in refused.error) == (1, True), content


def test_a_recipe_whose_data_cannot_be_read_is_no_reason_to_stop(
    chains: tuple[Chain, Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> object:
        raise PermissionError(13, "Permission denied", "/data/x")

    monkeypatch.setattr("flows.run.preparation.planner", unreadable)
    told = json.loads(agevlm("gc", "--json").output)
    assert any("cannot be planned here" in note and "/data/x" in note for note in told["notes"])


def test_gc_ends_if_the_store_does_not_tell_what_a_recipe_has(
    chains: tuple[Chain, Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current attempt of a step cannot be read: without it, an artifact of the recipe could go."""

    def unreadable(*_: object) -> object:
        raise PermissionError(13, "Permission denied", "/store/refs")

    monkeypatch.setattr(ArtifactStore, "attempt", unreadable)
    done = agevlm("gc", "--results", "--delete")
    assert (done.code, "/store/refs: Permission denied" in done.error) == (1, True)
    assert len(kinds(chains[0].store)) == len({a.ref for chain in chains for a in chain.made.values()})


def test_a_tag_that_is_set_while_gc_begins_waits_for_it(
    chains: tuple[Chain, Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc takes its lock and then reads the tags; so a tag is written first, and then the lock is looked at."""
    order: list[str] = []
    real = Tags.put
    monkeypatch.setattr(Tags, "put", lambda *args, **options: (order.append("put"), real(*args, **options))[1])
    monkeypatch.setattr("pipeline.artifacts.removal.wait_for_removal", lambda *_: order.append("lock"))
    assert agevlm("tag", "stage1", "mine").code == 0
    assert order == ["put", "lock"]


def test_what_cannot_be_removed_is_said_and_ends_with_1(
    chains: tuple[Chain, Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(fs: object, path: str) -> None:
        raise OSError(30, "Read-only file system", path)

    monkeypatch.setattr("pipeline.artifacts.filesystem.remove", read_only)
    done = agevlm("gc", "--results", "--delete", "--recipe", "miniature")
    assert done.code == 1
    assert "cannot be removed (Read-only file system)" in done.output
    assert agevlm("verify", "--all").code == 0


@pytest.fixture
def named(chains: tuple[Chain, Chain], monkeypatch: pytest.MonkeyPatch) -> Chain:
    """A store with the tags my-masks and my-model; programs that need torch are not started."""

    def started(name: str, arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder = arguments[arguments.index("--") + 1]
        artifact = chains[0].store.find(folder, "checkpoint")  # as the program does
        print(f"{name} of {artifact.ref}")
        return subprocess.CompletedProcess([], 0)

    monkeypatch.setattr("flows.cli.surroundings.run_student_program", started)
    chains[0].store.tags.put("my-masks", chains[0].made["masks-pretrain"].ref)
    chains[0].store.tags.put("my-model", chains[0].made["stage3"].ref)
    return chains[0]


FORMS = {
    "masks": ("my-masks", "masks-pretrain", "masks/pretrain", "masks/pretrain/latest", "masks/pretrain/{id}", "{id}"),
    "checkpoint": ("my-model", "stage3", "checkpoint/stage3", "checkpoint/stage3/latest", "{id}", "checkpoint/latest"),
}


def test_every_command_with_an_id_takes_every_form_of_a_name(
    named: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # compare writes its page there
    image = tmp_path / "a.png"
    image.write_bytes(b"")
    commands: dict[str, list[tuple[str, ...]]] = {
        "masks": [
            ("show", "@"), ("lineage", "@"), ("verify", "@"), ("diff", "@", "@"), ("compare", "@", "@"),
            ("gates", "@"), ("export", "@", "OUT"),
        ],
        "checkpoint": [
            ("show", "@"), ("lineage", "@"), ("verify", "@"), ("diff", "@", "@"), ("export", "@", "OUT"),
            ("ask", "@", str(image), "what?"), ("check-alignment", "@"),
        ],
    }  # fmt: skip
    number = 0
    for kind, forms in FORMS.items():
        for form in (*forms, "latest"):
            artifact = named.made["masks-pretrain" if kind == "masks" else "stage3"]
            text = form.format(id=short(artifact.ref.id))
            for command in commands[kind]:
                number += 1
                words = [text if w == "@" else str(tmp_path / f"out{number}") if w == "OUT" else w for w in command]
                done = agevlm(*words)
                said = done.output + done.error
                unknown = ("ambiguous", "no artifact", "is not an artifact", "Traceback", "Usage")
                assert not any(word in said for word in unknown), (words, said)
                assert f"{kind}/" in said or form == "latest" or command[0] in ("compare", "gates"), (words, said)
    for n, name in enumerate(("my-masks", "masks/pretrain")):
        assert agevlm("tag", name, f"again{n}").code == 0
