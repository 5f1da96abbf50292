"""The runner of steps: valid specs, unchanged raw data and weights, and one artifact with several writers."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.errors import ArtifactError, ConfigError, DataError, StepError
from pipeline.artifacts import room
from pipeline.artifacts.manifest import Counts, Manifest
from pipeline.artifacts.spec import ArtifactRef, StepSpec, short
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.artifacts.versions import library_versions
from pipeline.plan.job import JobSpec
from pipeline.plan.parameters import InventoryParams, PackParams, SegmentParams, StageParams
from pipeline.sources.config import CambrianSource, identity
from pipeline.steps import runner
from pipeline.steps.context import Outcome, StepContext, work_folder
from pipeline.steps.input_check import RAW, WEIGHTS
from pipeline.steps.runner import run_job
from tests.fixtures_weights import change_weights, write_weights
from tests.pipeline.sources.fixtures_pictures import encoded, halves
from tests.pipeline.steps.fixtures_single_step import Workshop, cambrian, chat, shards_of

Run = Callable[[StepContext], Outcome]


def record(answer: str = "Two halves.") -> dict[str, Any]:
    return {"id": 1, "image": "a.png", "conversations": chat(("What is it?", answer))}


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    source = cambrian(tmp_path / "raw", [record()])
    (tmp_path / "raw" / "images" / "a.png").write_bytes(encoded(halves(20, 10)))
    return Workshop(tmp_path, source)


@pytest.fixture
def job(workshop: Workshop) -> JobSpec:
    params = {"source": identity(workshop.source), "limit": None}
    return workshop.job("inventory", params | {RAW: "now"})


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Replace the code of the inventory."""
    return lambda run: monkeypatch.setattr(runner, "entry_point", lambda _: run)


def write_line(context: StepContext) -> Outcome:
    """A step that writes one file."""
    context.staging.write_bytes("line.txt", b"line")
    return Outcome(Counts(unit="record", rows_in=1, rows_out=1))


def folders_left(workshop: Workshop, job: JobSpec) -> list[str]:
    """The data folders of all writers."""
    folder = Path(workshop.store.join(job.ref.path))
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


# -- the spec


def changed(job: JobSpec, **changes: Any) -> JobSpec:
    return job.model_copy(update={"spec": job.spec.model_copy(update=changes)})


def test_an_artifact_is_made_only_under_the_id_of_its_spec(workshop: Workshop, job: JobSpec) -> None:
    edited = changed(job, params={**job.spec.params, "limit": 99})
    with pytest.raises(ConfigError) as caught:
        run_job(edited)
    message = str(caught.value)
    assert f"its spec and attempt make {short(edited.spec.id())}, but its ref is {job.ref}" in message
    assert "agevlm plan RECIPE --json FOLDER" in message
    with pytest.raises(ConfigError, match="its spec and attempt make"):
        run_job(job.model_copy(update={"attempt": 1}))
    assert not Path(workshop.store.base).exists() or not list(workshop.store.refs())
    assert run_job(job).manifest.spec == job.spec


def test_the_inputs_must_be_those_of_the_spec(workshop: Workshop, job: JobSpec) -> None:
    inventory, params = run_job(job), {"size": None, "query": "caption", "turns": "one", "seed": 0}
    subset = workshop.job("subset", params, inventory=inventory)
    other = inventory.ref.model_copy(update={"id": "0" * 64})
    with pytest.raises(
        ConfigError, match=f"input 'inventory' is 000000000000, but its spec has {short(inventory.ref.id)}"
    ):
        run_job(subset.model_copy(update={"inputs": {"inventory": other}}))
    with pytest.raises(ConfigError, match=f"input 'inventory' is none, but its spec has {short(inventory.ref.id)}"):
        run_job(subset.model_copy(update={"inputs": {}}))
    with pytest.raises(ConfigError, match="input 'more' is 000000000000, but its spec has none"):
        run_job(subset.model_copy(update={"inputs": {**subset.inputs, "more": other}}))
    assert run_job(subset).ref == subset.ref


def test_an_input_of_another_kind_is_refused(workshop: Workshop, job: JobSpec) -> None:
    params = {"size": None, "query": "caption", "turns": "one", "seed": 0}
    first = workshop.run("subset", params, inventory=run_job(job))
    with pytest.raises(ArtifactError, match="input 'inventory' must be of kind inventory, but is subset/pretrain"):
        workshop.run("subset", params, inventory=first)


@pytest.mark.parametrize("where", ["step", "kind"])
def test_a_step_that_is_not_in_the_table_is_named(job: JobSpec, where: str) -> None:
    if where == "step":
        spec = job.spec.model_copy(update={"step": "dream"})
        wrong = job.model_copy(update={"spec": spec, "ref": job.ref.model_copy(update={"id": spec.id()})})
    else:
        wrong = job.model_copy(update={"ref": job.ref.model_copy(update={"kind": "dreams"})})
    with pytest.raises(ConfigError, match=r"no step '\w+' makes an artifact of kind \w+; inventory makes inventory"):
        run_job(wrong)


# -- raw data and weights


def test_every_fingerprint_of_a_step_is_declared() -> None:
    """A parameter with 'checksum' in its description must be one that `check_planned` compares."""
    described = {
        name
        for params in (InventoryParams, SegmentParams, PackParams, StageParams)
        for name, field in params.model_fields.items()
        if "checksum" in (field.description or "")
    }
    assert described == {RAW, *WEIGHTS}


def add_line(source: CambrianSource) -> None:
    Path(source.annotations).write_text(json.dumps(record("Other data.")) + "\n")


def add_image(source: CambrianSource) -> None:
    (Path(source.images) / "b.png").write_bytes(b"new")


def lose_images(source: CambrianSource) -> None:
    shutil.rmtree(source.images)


@pytest.mark.parametrize("change", [add_line, add_image, lose_images])
def test_raw_data_that_changed_since_the_plan_are_refused(
    workshop: Workshop, job: JobSpec, change: Callable[[Any], None]
) -> None:
    change(workshop.source)
    with pytest.raises(DataError, match=r"data\.pretrain changed since the run was planned|does not exist"):
        run_job(job)
    assert workshop.store.get(job.ref) is None


@pytest.mark.parametrize("change", [add_line, add_image, lose_images])
@pytest.mark.parametrize("fails", [False, True])
def test_raw_data_that_change_while_the_step_reads_them_are_refused(
    workshop: Workshop, job: JobSpec, step: Callable[[Run], None], change: Callable[[Any], None], fails: bool
) -> None:
    def run(context: StepContext) -> Outcome:
        context.staging.shards().commit("a", {"a.txt": b"perhaps from the new data"}, 1)
        change(workshop.source)
        if fails:
            raise StepError("something was odd")
        return write_line(context)

    step(run)
    with pytest.raises(DataError, match=r"data\.pretrain changed since the run was planned|does not exist"):
        run_job(job)
    assert workshop.store.get(job.ref) is None
    assert shards_of(job).committed() == {}, "the shards may be from the new data"


def test_a_step_that_fails_on_unchanged_data_raises_its_own_error_and_keeps_its_commits(
    job: JobSpec, step: Callable[[Run], None]
) -> None:
    def run(context: StepContext) -> Outcome:
        context.staging.shards().commit("a", {"a.txt": b"good"}, 1)
        raise StepError("something was odd")

    step(run)
    with pytest.raises(StepError, match="something was odd"):
        run_job(job)
    assert list(shards_of(job).committed()) == ["a"]


def test_a_cached_artifact_needs_no_raw_data(workshop: Workshop, job: JobSpec) -> None:
    made = run_job(job)
    lose_images(workshop.source)
    assert run_job(job).manifest == made.manifest


STEPS_WITH_WEIGHTS = {
    "florence": ("segment", {"sam": "now", "teacher": {}}),
    "sam": ("segment", {"florence": "now", "teacher": {}}),
    "tokenizer": ("pack", {"pack": {"max_tokens": 64}, "seed": 0}),
    "text": ("stage1", {"row": "stage1", "config": {}, "student": None, "vision": "now", "seed": 0}),
    "vision": ("stage1", {"row": "stage1", "config": {}, "student": None, "text": "now", "seed": 0}),
}


@pytest.fixture
def with_weights(workshop: Workshop, tmp_path: Path) -> Workshop:
    """Four folders with different weights."""
    roles = ("florence", "sam", "text", "vision")
    return replace(workshop, weights={role: str(write_weights(tmp_path / role, role)) for role in roles})


@pytest.mark.parametrize("name", sorted(STEPS_WITH_WEIGHTS))
def test_weights_that_changed_since_the_plan_are_refused(
    with_weights: Workshop, job: JobSpec, step: Callable[[Run], None], name: str
) -> None:
    inventory = run_job(job)
    step(write_line)
    step_name, params = STEPS_WITH_WEIGHTS[name]
    planned = with_weights.job(step_name, {**params, name: "now"})
    if name == "tokenizer":  # other weights beside the same tokenizer make the same pack
        change_weights(Path(with_weights.weights["text"]))
        assert run_job(planned).verify() == []
        planned = with_weights.job(step_name, {**params, name: "now", "seed": 1})
    folder = Path(with_weights.weights[WEIGHTS[name]])
    (folder / "tokenizer.json").write_text("others") if name == "tokenizer" else change_weights(folder)
    with pytest.raises(DataError, match=rf"weights\.{WEIGHTS[name]} changed since the run was planned.*run the recipe"):
        run_job(planned)
    again = with_weights.job(step_name, {**params, name: "now"})
    assert again.ref != planned.ref
    assert again.spec.params[name] != planned.spec.params[name]
    assert run_job(again).ref == again.ref
    assert inventory.verify() == []


def test_a_step_that_was_planned_for_other_versions_of_a_library_is_refused(
    workshop: Workshop, step: Callable[[Run], None]
) -> None:
    step(write_line)
    params = {"row": "stage2", "config": {}, "student": None, "text": None, "vision": None, "seed": 0}
    with pytest.raises(ConfigError, match=r"is to be made with timm 0\.1, but this machine has .*install the planned"):
        run_job(workshop.job("stage2", {**params, "versions": {"timm": "0.1"}}))
    here = workshop.job("stage2", {**params, "versions": {"timm": library_versions()["timm"]}})
    assert run_job(here).manifest.spec.params["versions"] == {"timm": library_versions()["timm"]}


def test_a_later_stage_needs_no_backbones(workshop: Workshop, step: Callable[[Run], None]) -> None:
    step(write_line)
    params = {"row": "stage2", "config": {}, "student": None, "text": None, "vision": None, "seed": 0}
    assert run_job(workshop.job("stage2", params)).verify() == []


def test_a_job_without_the_source_or_the_weights_is_a_config_error(workshop: Workshop, job: JobSpec) -> None:
    with pytest.raises(ConfigError, match="the job has no source 'pretrain'; it has none"):
        run_job(job.model_copy(update={"locations": job.locations.model_copy(update={"sources": {}})}))
    with pytest.raises(ConfigError, match="the job has no weights 'text'; it has none"):
        workshop.job("pack", {"pack": {"max_tokens": 64}, "seed": 0, "tokenizer": "now"})


# -- two writers


def publish_first(workshop: Workshop, job: JobSpec, content: bytes = b"first") -> Artifact:
    """Publish the artifact as another process would."""
    staging = Staging(workshop.store, job.ref, job.spec, job.attempt, {})
    staging.write_bytes("line.txt", content)
    return staging.publish(Counts(unit="record", rows_in=1, rows_out=1))


@pytest.mark.parametrize("error", [FileNotFoundError("the other one removed the work folder"), StepError("odd")])
def test_a_writer_that_fails_because_another_published_adopts_its_artifact(
    workshop: Workshop,
    job: JobSpec,
    step: Callable[[Run], None],
    error: Exception,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(context: StepContext) -> Outcome:
        context.staging.write_bytes("line.txt", b"half")
        publish_first(workshop, job)
        raise error

    step(run)
    artifact = run_job(job)
    assert artifact.open("line.txt").read() == b"first"
    assert folders_left(workshop, job) == [artifact.manifest.data]
    assert str(error) in capsys.readouterr().out
    assert not work_folder(job).exists()


def test_a_writer_that_fails_does_not_adopt_bad_files(
    workshop: Workshop, job: JobSpec, step: Callable[[Run], None]
) -> None:
    def run(context: StepContext) -> Outcome:
        Path(publish_first(workshop, job).path("line.txt")).write_bytes(b"worst")
        raise StepError("odd")

    step(run)
    with pytest.raises(StepError, match="odd"):
        run_job(job)


def test_a_writer_that_is_killed_adopts_nothing(workshop: Workshop, job: JobSpec, step: Callable[[Run], None]) -> None:
    def run(context: StepContext) -> Outcome:
        publish_first(workshop, job)
        raise KeyboardInterrupt

    step(run)
    with pytest.raises(KeyboardInterrupt):
        run_job(job)
    assert run_job(job).open("line.txt").read() == b"first"


@pytest.mark.parametrize("error", [SystemExit(143), KeyboardInterrupt(), RuntimeError("odd")])
def test_what_was_published_before_an_error_stays(
    workshop: Workshop,
    job: JobSpec,
    step: Callable[[Run], None],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    """A signal or an error just after the manifest was written."""
    really = ArtifactStore.publish

    def publish(store: ArtifactStore, manifest: Manifest) -> Artifact:
        really(store, manifest)
        raise error

    monkeypatch.setattr(ArtifactStore, "publish", publish)
    step(write_line)
    if isinstance(error, Exception):
        assert run_job(job).verify() == []
    else:
        with pytest.raises(type(error)):
            run_job(job)
    assert workshop.store.require(job.ref).verify() == []


def test_a_folder_in_the_place_of_the_latest_link_does_no_harm(
    workshop: Workshop, job: JobSpec, step: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    place = Path(workshop.store.join(job.ref.kind, job.ref.name, "latest"))
    (place / "of a user").mkdir(parents=True)
    step(write_line)
    assert run_job(job).verify() == []
    assert f"{place} was not renewed" in capsys.readouterr().out
    assert sorted(path.name for path in place.parent.iterdir()) == sorted([job.ref.id, "latest"])


def test_a_failed_step_leaves_no_files_behind(workshop: Workshop, job: JobSpec, step: Callable[[Run], None]) -> None:
    def run(context: StepContext) -> Outcome:
        write_line(context)
        raise StepError("odd")

    step(run)
    with pytest.raises(StepError, match="odd"):
        run_job(job)
    assert os.listdir(workshop.store.join(job.ref.path)) == []


def test_shards_made_from_other_content_of_an_input_are_not_used(workshop: Workshop, tmp_path: Path) -> None:
    """The input has the same id but other content, as after a step whose result is not reproducible."""
    folders = set()
    for content in (b"one", b"other", b"one"):
        store = ArtifactStore(str(tmp_path / content.decode()))
        spec = StepSpec(step="inventory", revision=1, params={}, inputs={})
        parent = Staging(store, ArtifactRef(kind="inventory", name="x", id=spec.id()), spec, 0, {})
        parent.write_bytes("a.bin", content)
        made = store.get(parent.ref) or parent.publish(Counts(unit="row", rows_in=1, rows_out=1))
        job = workshop.job("subset", {"size": 1, "query": "caption", "turns": "one", "seed": 0}, inventory=made)
        folders.add(Staging(store, job.ref, job.spec, 0, {"inventory": made}).shards().folder)
    assert len(folders) == 2


def test_a_step_without_room_does_not_start_and_a_rerun_after_room_was_made_does(
    job: JobSpec, step: Callable[[Run], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def run(context: StepContext) -> Outcome:
        begun.append(context.job.key)
        return write_line(context)

    step(run)
    monkeypatch.setattr(room, "_free", lambda _: (100 << 20, 90_000))
    needy = job.model_copy(update={"writes": 200 << 20})
    with pytest.raises(
        StepError, match=r"the store .* needs 200\.0 MiB for this step, but its disk has 100\.0 MiB free"
    ):
        run_job(needy)
    assert begun == []
    monkeypatch.setattr(room, "_free", lambda _: (300 << 20, 90_000))
    assert run_job(needy).ref == job.ref
    monkeypatch.setattr(room, "_free", lambda _: (0, 0))
    assert run_job(needy).ref == job.ref, "an artifact that exists needs no room"
