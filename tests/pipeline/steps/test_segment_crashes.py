"""Pictures that kill their process are found and become rows with an error; all other rows keep their bytes."""

from pathlib import Path

import pytest

from model.errors import DataError, StepError
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.compute.resources import Pool, Resources
from pipeline.compute.session import session
from pipeline.masks.attempts import SUSPECT, Attempts
from pipeline.masks.config import TeacherConfig
from pipeline.plan.job import JobSpec
from pipeline.steps import segment
from pipeline.steps.runner import run_job
from tests.model.teachers.fixtures_tiny_teachers import write_florence, write_sam
from tests.pipeline.masks.fixtures_crashes import DECODE, LOG, TEACHER, use_small_teacher
from tests.pipeline.masks.fixtures_dataset import Dataset, make_dataset, parts, read
from tests.pipeline.steps.fixtures_local_segment import run_without_ray
from tests.pipeline.steps.fixtures_single_step import rejects

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
CONFIG = TeacherConfig(shard_images=8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Weights that are only fingerprinted."""
    folder = tmp_path_factory.mktemp("weights")
    return write_florence(folder / "florence", talkative=True), write_sam(folder / "sam")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    use_small_teacher(monkeypatch)
    log = tmp_path / "deaths"
    log.touch()
    monkeypatch.setenv(LOG, str(log))
    return log


def run_locally(monkeypatch: pytest.MonkeyPatch, job: JobSpec) -> Artifact:
    """Run the step in this process, which is not killed."""
    with monkeypatch.context() as here:
        run_without_ray(here)
        return run_job(job)


def test_poison_is_isolated_and_the_rest_finishes_with_the_same_bytes(
    tmp_path: Path, weights: tuple[Path, Path], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 pictures in 3 shards: one kills decoding, one kills the teacher, shard 2 is healthy."""
    monkeypatch.setattr("tests.pipeline.masks.fixtures_dataset.MAX_REJECT_SHARE", 0.2)
    dataset = make_dataset(tmp_path, 24)
    healthy = run_locally(monkeypatch, dataset.segment_job(*weights, CONFIG))
    monkeypatch.setenv(DECODE, "3.jpg=segfault")
    monkeypatch.setenv(TEACHER, "13.jpg=oom")
    artifact = run_job(dataset.segment_job(*weights, CONFIG, attempt=1))
    good, found = read(healthy), read(artifact)
    lost = {"sample-003": "poison: the process that decodes", "sample-013": "poison: the process of the teacher died"}
    for before, after in zip(good, found, strict=True):
        if after["sample_id"] in lost:
            assert (after["status"], after["instances"]) == ("error", [])
            assert after["reason"].startswith(lost[after["sample_id"]])
        else:
            assert after == before, "the small teacher does not depend on batches"
    last = "part-00002-of-00003.parquet"
    assert parts(artifact)[last] == parts(healthy)[last]
    poisoned = sum(row["sample_id"] in lost for row in found)
    assert artifact.manifest.counts.rejected == {"poison": poisoned}
    assert len(rejects(artifact)["poison"]) == poisoned
    deaths = small.read_text().splitlines()
    assert 0 < sum(DECODE in line for line in deaths) <= 2 + 3 + 2, deaths
    assert 0 < sum(TEACHER in line for line in deaths) <= 2 + 3 + 2, deaths
    assert not list(dataset.store.fs.find(dataset.store.join("work"))), "nothing is left"


def test_when_every_picture_kills_its_process_the_step_fails_early_and_blames_none(
    tmp_path: Path, weights: tuple[Path, Path], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path, 32)
    monkeypatch.setenv(TEACHER, "*=exit")
    job = dataset.segment_job(*weights, CONFIG)
    with pytest.raises(StepError, match=r"every picture that is tried kills its process .*3 of part-0000\d"):
        run_job(job)
    assert len(small.read_text().splitlines()) < 15
    assert dataset.store.get(job.ref) is None
    monkeypatch.setenv(TEACHER, "")
    assert run_locally(monkeypatch, job).manifest.counts.total_rejected == 0, "the rerun blames nothing"


def test_more_poison_than_the_reject_limit_allows_fails_the_step(
    tmp_path: Path, weights: tuple[Path, Path], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path, 8)
    monkeypatch.setenv(DECODE, "1.jpg=oom")
    with pytest.raises(DataError, match="poison: "):
        run_job(dataset.segment_job(*weights, CONFIG))


def test_notes_of_killed_runs_cost_time_and_blame_no_picture(
    weights: tuple[Path, Path], small: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed driver leaves notes at each shard in flight; two of them make a shard suspect."""

    def with_notes(store: ArtifactStore, folder: str) -> Attempts:
        attempts = Attempts(store, folder)
        for run in range(SUSPECT):
            attempts._write(f"{attempts._folder('part-00001-of-00003')}/phase-0-{run}.json", b"{}")
        return attempts

    undisturbed = run_locally(monkeypatch, dataset.segment_job(*weights, CONFIG))
    monkeypatch.setattr(segment, "Attempts", with_notes)
    found = run_job(dataset.segment_job(*weights, CONFIG, attempt=1))
    assert parts(found) == parts(undisturbed)
    assert found.manifest.counts == undisturbed.manifest.counts


def test_two_pools_make_the_bytes_of_one(
    weights: tuple[Path, Path], small: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = dataset.segment_job(*weights, CONFIG)
    resources = Resources(cpus=0.7, workers=1, threads=1, second_pool=Pool(cpus=0.6))
    other = dataset.segment_job(*weights, CONFIG, attempt=1).model_copy(update={"resources": resources})
    one = run_locally(monkeypatch, job)
    with session(cpus=2):
        two = run_job(other)
    assert parts(one) == parts(two)
    assert one.manifest.statistics == two.manifest.statistics


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path, 20)
