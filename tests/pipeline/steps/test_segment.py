"""The step segment: it works shard by shard, can be resumed, and always makes the same bytes.

Most tests run without Ray: the actor's code runs in this process, on the blocks of the read tasks. One test runs the
whole step on Ray and compares the bytes.
"""

import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError, DataError, StepError
from model.miniature.world import make_scene
from pipeline.artifacts.shards import OTHER_WRITER_SECONDS, Shards
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.compute.resources import Resources
from pipeline.compute.session import session
from pipeline.masks import stream
from pipeline.masks.actors import SegmentWork
from pipeline.masks.attempts import Attempts
from pipeline.masks.config import TeacherConfig, TeacherSetup
from pipeline.masks.parts import cut, facts_of
from pipeline.masks.pictures import read_pictures
from pipeline.masks.teachers.table import TEACHERS
from pipeline.schemas import EVIDENCE, QUERIES
from pipeline.sources.images.store import ImageStore
from pipeline.steps.context import work_folder
from pipeline.steps.runner import run_job
from tests.model.teachers.fixtures_tiny_teachers import LOCATIONS, write_florence, write_sam
from tests.pipeline.masks.fixtures_dataset import Dataset, break_image, make_dataset, parts, read
from tests.pipeline.steps.fixtures_local_segment import local_stream, run_without_ray
from tests.pipeline.steps.fixtures_single_step import damaged, shards_of

SCENES = 8
TEACHER = TeacherConfig(max_new_tokens=LOCATIONS, shard_images=3, batch_queries=4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return write_florence(folder / "florence", talkative=True), write_sam(folder / "sam")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path, SCENES)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Run without Ray; the list records the shards that are computed."""
    monkeypatch.setitem(OTHER_WRITER_SECONDS, "disk", 0.2)  # a file without a seal is soon nobody's
    return run_without_ray(monkeypatch)


def test_every_query_has_evidence_and_parts_follow_the_subset(
    dataset: Dataset, weights: tuple[Path, Path], computed: list[int]
) -> None:
    artifact = run_job(dataset.segment_job(*weights, TEACHER))
    rows = read(artifact)
    columns = [name for name in QUERIES.names if name in EVIDENCE.names]
    assert [{name: row[name] for name in columns} for row in rows] == dataset.queries.select(columns).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    assert all(len(row["instances"]) == 1 for row in rows)
    assert artifact.matching("part-") == [f"part-0000{i}-of-00003.parquet" for i in range(3)]
    assert artifact.manifest.counts.rows_out == len(dataset.queries)
    assert artifact.verify() == []
    facts = facts_of(Path(artifact.path("part-00000-of-00003.parquet")))
    assert facts["pictures"] == [3]
    assert sum(facts["queries"]) == sum(len(make_scene(s).objects) + 1 for s in range(3))


def test_a_killed_run_continues_and_ends_with_the_same_bytes(
    dataset: Dataset, weights: tuple[Path, Path], computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_job(dataset.segment_job(*weights, TEACHER))
    assert computed == [0, 1, 2]
    job = dataset.segment_job(*weights, TEACHER, attempt=1)
    first: list[int] = []
    monkeypatch.setattr(stream, "segment_shards", local_stream(first, stop_after=2))
    with pytest.raises(KeyboardInterrupt):
        run_job(job)
    assert first == [0, 1]
    assert list(shards_of(job).committed()) == [f"part-0000{i}-of-00003" for i in (0, 1)]
    damaged(shards_of(job), "part-00000-of-00003.parquet", lambda _: b"torn")
    rest: list[int] = []
    monkeypatch.setattr(stream, "segment_shards", local_stream(rest))
    resumed = run_job(job)
    assert rest == [0, 2]
    assert parts(resumed) == parts(whole)
    assert not work_folder(job).exists()


def test_the_same_input_twice_gives_the_same_bytes(
    dataset: Dataset, weights: tuple[Path, Path], computed: list[int], tmp_path: Path
) -> None:
    other = make_dataset(tmp_path / "again", SCENES)
    assert parts(run_job(dataset.segment_job(*weights, TEACHER))) == parts(
        run_job(other.segment_job(*weights, TEACHER))
    )


def test_a_picture_that_changed_fails_its_own_rows_only(
    tmp_path: Path, weights: tuple[Path, Path], computed: list[int]
) -> None:
    dataset = make_dataset(tmp_path, scenes=24)
    good = read(run_job(dataset.segment_job(*weights, TEACHER)))
    break_image(dataset.images / "5.jpg")
    artifact = run_job(dataset.segment_job(*weights, TEACHER, attempt=1))
    found = read(artifact)
    lost = len(make_scene(5).objects) + 1
    assert artifact.manifest.counts.rejected == {"image_changed": lost}
    assert pq.read_table(artifact.path("rejects.parquet")).num_rows == lost
    for a, b in zip(good, found, strict=True):
        if a["sample_id"] == "sample-005":
            assert (b["status"], b["instances"]) == ("error", [])
            assert b["reason"].startswith("image_changed: image '5.jpg' changed since the inventory: sha256")
        else:
            assert [i["polygons"] for i in a["instances"]] == [i["polygons"] for i in b["instances"]]


def test_too_many_errors_fail_the_step_and_are_tried_again(
    dataset: Dataset, weights: tuple[Path, Path], computed: list[int]
) -> None:
    hidden = dataset.images / "4.jpg"
    hidden.rename(dataset.images / "away")
    job = dataset.segment_job(*weights, TEACHER)
    with pytest.raises(DataError) as caught:
        run_job(job)
    message = str(caught.value)
    assert "queries of segment-pretrain were rejected, more than max_reject_share = 0.1 allows:" in message
    assert "  image_changed: " in message
    assert "The first: image_changed: missing_image: image '4.jpg'" in message
    assert "repeats only the shards with errors" in message
    assert 'force = ["inventory-pretrain"]' in message
    assert computed == [0, 1], "it stopped when there were too many"
    (dataset.images / "away").rename(hidden)
    computed.clear()
    assert run_job(job).manifest.counts.total_rejected == 0
    assert computed == [1, 2], "the shard with errors is repeated, the good one is not"


def test_errors_that_are_allowed_are_kept_after_a_crash(
    tmp_path: Path, weights: tuple[Path, Path], computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path, scenes=24)
    break_image(dataset.images / "1.jpg")
    job = dataset.segment_job(*weights, TEACHER)
    monkeypatch.setattr(stream, "segment_shards", local_stream(computed, stop_after=4))
    with pytest.raises(KeyboardInterrupt):
        run_job(job)
    monkeypatch.setattr(stream, "segment_shards", local_stream(computed))
    assert run_job(job).manifest.counts.rejected == {"image_changed": len(make_scene(1).objects) + 1}
    assert computed == list(range(8))


def test_a_step_in_which_every_query_fails_is_not_published(
    tmp_path: Path, weights: tuple[Path, Path], computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.pipeline.masks.fixtures_dataset.MAX_REJECT_SHARE", 1.0)
    dataset = make_dataset(tmp_path, scenes=2)
    for file in dataset.images.glob("*.jpg"):
        break_image(file)
    with pytest.raises(DataError, match="so nothing would be left"):
        run_job(dataset.segment_job(*weights, TEACHER))


@pytest.mark.parametrize("left", [b"", b"PAR1", b"x" * 400])
def test_a_file_that_a_killed_writer_left_is_replaced(
    dataset: Dataset, weights: tuple[Path, Path], computed: list[int], left: bytes
) -> None:
    job = dataset.segment_job(*weights, TEACHER)
    file = Path(shards_of(job).path("part-00001-of-00003.parquet"))
    file.parent.mkdir(parents=True)
    file.write_bytes(left)
    artifact = run_job(job)
    assert artifact.manifest.counts.rows_out == len(dataset.queries)
    assert artifact.verify() == []
    assert computed == [0, 1, 2]


def test_a_long_query_is_cut_and_its_offsets_with_it(
    dataset: Dataset, weights: tuple[Path, Path], computed: list[int]
) -> None:
    teacher = TEACHER.model_copy(update={"max_query_characters": 16})
    rows = read(run_job(dataset.segment_job(*weights, teacher)))
    full = dataset.queries["query"].to_pylist()
    assert any(len(text) > 16 for text in full)
    for row, text in zip(rows, full, strict=True):
        assert row["query"] == text[:16].rstrip()
        assert row["char_end"] - row["char_start"] == len(row["query"])


def test_an_empty_subset_is_an_empty_artifact(tmp_path: Path, weights: tuple[Path, Path], computed: list[int]) -> None:
    artifact = run_job(make_dataset(tmp_path, scenes=0).segment_job(*weights, TEACHER))
    assert artifact.matching("part-") == ["part-00000-of-00001.parquet"]
    assert artifact.manifest.counts.rows_in == 0
    assert computed == []


def test_a_block_that_is_not_a_whole_shard_is_refused(
    dataset: Dataset, weights: tuple[Path, Path], tmp_path: Path
) -> None:
    setup = TeacherSetup({"florence": str(weights[0]), "sam": str(weights[1])}, "t", TEACHER, "cpu", 1)
    store = ArtifactStore(str(tmp_path / "other"))
    images, phases = ImageStore(str(dataset.images)), TEACHERS["florence_sam"].phases
    work = SegmentWork(Shards(store, "segments", "inputs"), 2, images, setup, Attempts(store, "notes"), phases)
    actor = stream.TeacherActor(work)
    one, two = (read_pictures(images, i, shard) for i, shard in enumerate(cut(dataset.queries, 3)[:2]))
    for block in (one.slice(0, 2), pa.concat_tables([one, two])):
        with pytest.raises(StepError, match="regrouped"):
            actor(block)


def test_a_blocks_size_is_bounded_by_the_sizes_in_the_inventory(dataset: Dataset) -> None:
    for index, shard in enumerate(cut(dataset.queries, 3)):
        assert read_pictures(ImageStore(str(dataset.images)), index, shard).nbytes < stream.block_bytes(shard)


def expected_parts(dataset: Dataset, weights: tuple[Path, Path], teacher: TeacherConfig) -> dict[str, bytes]:
    """The parts that an undisturbed run without Ray publishes."""
    with pytest.MonkeyPatch.context() as patch:
        run_without_ray(patch)
        return parts(run_job(dataset.segment_job(*weights, teacher)))


def test_a_run_on_ray_makes_the_same_bytes_and_keeps_earlier_commits(
    dataset: Dataset, weights: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = expected_parts(dataset, weights, TEACHER)
    other = make_dataset(tmp_path / "ray", SCENES)
    job = other.segment_job(*weights, TEACHER)
    name = "part-00001-of-00003"
    earlier = shards_of(job).commit(  # as before a crash
        name, {f"{name}.parquet": expected[f"{name}.parquet"]}, 1, {"rejects": [], "device": "cpu"}
    )
    with session(cpus=2):
        through_ray: Artifact = run_job(job)
        too_large = other.segment_job(*weights, TEACHER, attempt=1)
        with pytest.raises(StepError, match=r"needs 64\.5 CPUs.*lower resources\.segment"):
            run_job(too_large.model_copy(update={"resources": Resources(cpus=64)}))
    assert parts(through_ray) == expected
    assert shards_of(job).committed()[name] == earlier


@pytest.mark.system
def test_a_killed_actor_changes_no_bytes_and_damaged_weights_are_named(
    dataset: Dataset, weights: tuple[Path, Path], tmp_path: Path
) -> None:
    single = TEACHER.model_copy(update={"shard_images": 1})
    expected = expected_parts(dataset, weights, single)
    other = make_dataset(tmp_path / "ray", SCENES)
    job = other.segment_job(*weights, single)
    killed: list[int] = []

    def kill_once() -> None:
        while not shards_of(job).committed():
            time.sleep(0.01)
        for process in psutil.Process().children(recursive=True):
            if process.name().startswith("ray::MapWorker") or "MapWorker" in " ".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)
                return

    with session(cpus=2):
        killer = threading.Thread(target=kill_once, daemon=True)
        killer.start()
        through_ray: Artifact = run_job(job)
        killer.join(timeout=10)
        assert killed
        (tmp_path / "no-sam.pth").write_bytes(b"lost")
        with pytest.raises(ConfigError, match=r"weights\.sam = .*it is neither a"):  # before anything runs
            run_job(other.segment_job(weights[0], tmp_path / "no-sam.pth", single))
    assert parts(through_ray) == expected


def test_a_subset_without_parts_is_refused(dataset: Dataset, weights: tuple[Path, Path]) -> None:
    odd = replace(dataset, subset=_not_a_subset(dataset))
    with pytest.raises(DataError, match=r"no part-\*"):
        run_job(odd.segment_job(*weights, TEACHER))


def _not_a_subset(dataset: Dataset) -> Artifact:
    from pipeline.artifacts.manifest import Counts
    from pipeline.artifacts.spec import ArtifactRef, StepSpec
    from pipeline.artifacts.staging import Staging

    spec = StepSpec(step="subset", revision=9, params={}, inputs={})
    staging = Staging(dataset.store, ArtifactRef(kind="subset", name="odd", id=spec.id()), spec, 0, {})
    staging.write_rejects([])
    return staging.publish(Counts(unit="record", rows_in=0, rows_out=0))
