"""Whole stages with Ray Train whose processes are killed: they end with the bytes of an undisturbed stage."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from model.errors import StepError
from pipeline.artifacts.spec import ArtifactRef
from pipeline.artifacts.store import Artifact
from pipeline.compute.resources import Resources
from pipeline.compute.session import session
from pipeline.steps.runner import run_job
from pipeline.training.config import StageConfig, StudentConfig
from pipeline.training.execution import Execution
from pipeline.training.student import join_backbones
from tests.pipeline.steps.fixtures_store import Bench, read_json
from tests.pipeline.training.fixtures_tiny_training import make_pack

pytestmark = pytest.mark.system

STUDENT = StudentConfig(cross_attention_layers=(1, 4))
CONFIG = StageConfig(global_batch=4, learning_rate=1e-3, precision="fp32", epochs=40, max_steps=120, held_out=2)
EXECUTION = Execution(log_every=2, checkpoint_steps=8, held_out_every=20)


@pytest.fixture
def benches(backbones: dict[str, str], tmp_path: Path) -> Callable[[str], tuple[Bench, ArtifactRef]]:
    """Makes stores with the same pack."""

    def make(name: str) -> tuple[Bench, ArtifactRef]:
        bench = Bench(tmp_path / name, backbones)
        if not (tmp_path / "pack").exists():
            _, processor = join_backbones(STUDENT, backbones["text"], backbones["vision"], 0)
            make_pack(tmp_path / "pack", processor, 44)
        return bench, bench.publish("pack", "pretrain", tmp_path / "pack")

    return make


def stage(bench: Bench, pack: ArtifactRef, **resources: Any) -> Any:
    params = {
        "row": "stage1",
        "config": CONFIG.model_dump(mode="json"),
        "student": STUDENT.model_dump(mode="json"),
        "text": "t",
        "vision": "v",
        "seed": 0,
    }
    wanted = Resources(**{"cpus": 1, "threads": 1, "micro_batch": 4, **resources})
    job = bench.job("stage1", "checkpoint", params, {"pack": pack}, wanted)
    return job.model_copy(update={"execution": EXECUTION})


def processes(title: str) -> list[psutil.Process]:
    """The processes below this one whose title has this text."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_after_checkpoints(bench: Bench, kills: list[str], done: list[str]) -> None:
    """Kill -9 the first process of each title, each after a new checkpoint was sealed. For a thread."""
    seen = 0
    for title in kills:
        for _ in range(1200):
            sealed = sorted(bench.root.glob("store/work/*/checkpoints-*/_seals/step-*.json"))
            newest = int(sealed[-1].stem[5:]) if sealed else 0
            targets = processes(title)
            if newest > seen and targets:
                os.kill(targets[0].pid, signal.SIGKILL)
                done.append(f"{title} at {newest}")
                seen = newest
                break
            time.sleep(0.05)


def disturbed(bench: Bench, job: Any, kills: list[str]) -> tuple[Artifact, list[str]]:
    done: list[str] = []
    thread = threading.Thread(target=kill_after_checkpoints, args=(bench, kills, done))
    thread.start()
    try:
        return run_job(job), done
    finally:
        thread.join()


WORKER, CONTROLLER = "RayTrainWorker", "TrainController"


def test_killed_workers_and_a_killed_controller_change_no_byte(
    benches: Callable[[str], tuple[Bench, ArtifactRef]],
) -> None:
    bench, pack = benches("undisturbed")
    undisturbed = run_job(stage(bench, pack))
    bench, pack = benches("disturbed")
    artifact, kills = disturbed(bench, stage(bench, pack), [WORKER, WORKER, CONTROLLER, WORKER])
    assert len(kills) == 4, kills
    assert artifact.manifest.content_sha256 == undisturbed.manifest.content_sha256
    run = read_json(artifact.local() / "provenance" / "run.json")
    assert len(run["resumed_from"]) >= 3
    assert not list(bench.root.glob("store/work/*"))
    assert undisturbed.matching("training_state/") == [
        "training_state/optimizer.safetensors",
        "training_state/state.json",
    ]


def test_a_rerun_with_another_number_of_workers_goes_on(
    benches: Callable[[str], tuple[Bench, ArtifactRef]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers; one is killed after a checkpoint, and nothing retries. The rerun has one worker."""
    bench, pack = benches("elastic")
    monkeypatch.setattr("pipeline.training.retries.MAX_FAILURES", 0)
    with pytest.raises(StepError, match="1 failures in a row after step"):
        disturbed(bench, stage(bench, pack, workers=2, micro_batch=2), [WORKER])
    artifact = run_job(stage(bench, pack))
    run = read_json(artifact.local() / "provenance" / "run.json")
    assert run["resumed_from"] != []
    assert read_json(artifact.local() / "stage.json")["steps"] == CONFIG.max_steps


def test_fewer_workers_go_on_while_there_is_no_room_for_all(
    benches: Callable[[str], tuple[Bench, ArtifactRef]],
) -> None:
    """Room for two of three workers: Ray Train starts two, because min_workers allows it."""
    bench, pack = benches("fewer")
    job = stage(bench, pack, workers=3, min_workers=1, micro_batch=2)
    with session(cpus=2):
        artifact, kills = disturbed(bench, job, [WORKER])
    assert kills
    assert read_json(artifact.local() / "provenance" / "run.json")["resumed_from"] != []


def test_an_error_of_the_code_in_a_worker_ends_the_stage_at_once(
    benches: Callable[[str], tuple[Bench, ArtifactRef]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, pack = benches("bug")
    runs = tmp_path / "runs"

    def train_worker(config: dict[str, Any]) -> None:
        with runs.open("a") as file:
            file.write("run\n")
        config["loss"]  # a KeyError, as of a typing error

    monkeypatch.setattr("pipeline.steps.train.train_worker", train_worker)
    with pytest.raises(StepError, match=r"worker 0: KeyError: 'loss'"):
        run_job(stage(bench, pack))
    assert runs.read_text() == "run\n"
