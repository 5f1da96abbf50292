"""The step train: errors before any worker starts, and whole stages with Ray Train (system tier)."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from model.errors import ConfigError, DataError, StepError
from pipeline.artifacts.spec import ArtifactRef
from pipeline.compute.resources import Resources
from pipeline.steps import train
from pipeline.steps.runner import run_job
from pipeline.steps.train import _row
from pipeline.training.config import StageConfig, StudentConfig
from pipeline.training.execution import Execution
from pipeline.training.student import build_student, join_backbones, load_student
from pipeline.training.watch.metrics import METRICS, SPEED
from tests.pipeline.steps.fixtures_store import Bench, read_json
from tests.pipeline.training.fixtures_tiny_training import ExactGuide, make_pack

STUDENT = StudentConfig(cross_attention_layers=(1, 4))
CONFIG = StageConfig(global_batch=6, learning_rate=1e-3, precision="fp32", max_steps=2, held_out=0)


@pytest.fixture
def bench(backbones: dict[str, str], tmp_path: Path) -> Bench:
    return Bench(tmp_path, backbones)


@pytest.fixture
def pack(bench: Bench, backbones: dict[str, str]) -> tuple[ArtifactRef, ExactGuide]:
    _, processor = join_backbones(STUDENT, backbones["text"], backbones["vision"], 0)
    guide = make_pack(bench.root / "pack", processor, 20, text_only=9, guided_every=2)
    return bench.publish("pack", "pretrain", bench.root / "pack", {"pack": {"system_prompt": "Be short."}}), guide


def params(row: str, first: bool = False, **config: Any) -> dict[str, Any]:
    return {
        "row": row,
        "config": CONFIG.model_copy(update=config).model_dump(mode="json"),
        "student": STUDENT.model_dump(mode="json") if first else None,
        "text": "t" if first else None,
        "vision": "v" if first else None,
        "seed": 0,
    }


def test_a_row_and_its_inputs_must_agree() -> None:
    assert _row("stage1", {"pack"}).name == "stage1"
    with pytest.raises(ConfigError, match="stage3 needs input 'masks'"):
        _row("stage3", {"pack", "parent"})
    with pytest.raises(ConfigError, match="stage4_baseline takes no input 'masks'"):
        _row("stage4_baseline", {"pack", "parent", "masks"})
    with pytest.raises(ConfigError, match="choose one of stage1"):
        _row("stage9", {"pack"})


def test_too_small_a_pack_is_refused_before_any_worker_starts(
    bench: Bench, pack: tuple[ArtifactRef, ExactGuide]
) -> None:
    job = bench.job("stage1", "checkpoint", params("stage1", True, global_batch=64), {"pack": pack[0]})
    with pytest.raises(ConfigError, match="17 usable rows in 1 epochs do not fill one step of global_batch = 64"):
        run_job(job)
    assert bench.store.get(job.ref) is None


def test_an_artifact_without_accepted_masks_is_refused(
    bench: Bench, pack: tuple[ArtifactRef, ExactGuide], backbones: dict[str, str]
) -> None:
    from pipeline.training.student import save_student

    model, processor = join_backbones(STUDENT, backbones["text"], backbones["vision"], 0)
    save_student(model, processor, bench.root / "parent" / "model")
    parent = bench.publish("checkpoint", "stage2", bench.root / "parent")
    inputs = {"pack": pack[0], "parent": parent, "masks": bench.masks(pack[1], status="no_region")}
    with pytest.raises(DataError, match=r"stage3: masks/pretrain/\w+ has no accepted mask"):
        run_job(bench.job("stage3", "checkpoint", params("stage3"), inputs))


def test_masks_that_were_made_again_are_used(
    bench: Bench,
    pack: tuple[ArtifactRef, ExactGuide],
    backbones: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that fails leaves its table of cells. The masks are made again, under their id: the table must be too."""
    from pipeline.training.student import save_student

    model, processor = join_backbones(STUDENT, backbones["text"], backbones["vision"], 0)
    save_student(model, processor, bench.root / "parent" / "model")
    parent = bench.publish("checkpoint", "stage2", bench.root / "parent")
    masks = bench.masks(pack[1], status="no_region")
    job = bench.job("stage3", "checkpoint", params("stage3"), {"pack": pack[0], "parent": parent, "masks": masks})
    with pytest.raises(DataError, match="has no accepted mask"):
        run_job(job)
    shutil.rmtree(bench.store.join(masks.path))
    assert bench.masks(pack[1]) == masks

    def fit(context: Any, params: Any, shards: Any, checkpoints: Any, index: Any, cells: Any) -> None:
        raise StepError(f"trained with {cells[1].rows} cells")

    monkeypatch.setattr(train, "_fit", fit)
    monkeypatch.setattr(train, "session", lambda **_: nullcontext())
    with pytest.raises(StepError, match=f"trained with {len(pack[1].table)} cells"):
        run_job(job)


@pytest.mark.parametrize(
    ("config", "out", "left"),
    [
        ({"max_steps": 2}, 12, 5),
        ({"max_steps": None}, 12, 5),
        ({"max_steps": None, "tail": "keep"}, 17, 0),
        ({"max_steps": None, "tail": "keep", "epochs": 3}, 17, 0),
        ({"max_steps": None, "held_out": 9}, 12, 5),  # 1 row in 20: one is held out
        ({"max_steps": None, "held_out": 9, "tail": "keep"}, 16, 1),
    ],
)
def test_every_row_of_the_pack_is_counted(
    bench: Bench,
    pack: tuple[ArtifactRef, ExactGuide],
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    out: int,
    left: int,
) -> None:
    """20 rows, 3 of them text only: seen, dropped, or left over as the tail and the held-out rows."""

    def fit(context: Any, params: Any, shards: Any, checkpoints: Any, index: Any, cells: Any) -> None:
        shards.commit(train.RESULT, {"stage.json": b"{}"}, out, {"summary": {}, "device": "cpu"})

    monkeypatch.setattr(train, "_fit", fit)
    monkeypatch.setattr(train, "session", lambda **_: nullcontext())
    job = bench.job("stage1", "checkpoint", params("stage1", True, **config), {"pack": pack[0]})
    counts = run_job(job).manifest.counts
    assert (counts.rows_in, counts.rows_out, counts.rejected, counts.not_selected) == (20, out, {"text_only": 3}, left)


def test_a_stage_without_parent_and_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage 1 has it"):
        build_student(None, "t", "v", 0, None)
    with pytest.raises(ConfigError, match="the student cannot be built"):
        build_student(STUDENT, str(tmp_path), str(tmp_path), 0, None)


def test_more_workers_than_samples_of_a_batch_are_refused(bench: Bench, pack: tuple[ArtifactRef, ExactGuide]) -> None:
    job = bench.job("stage1", "checkpoint", params("stage1", True), {"pack": pack[0]}, Resources(workers=64))
    with pytest.raises(ConfigError, match=r"64 workers cannot share a global batch of \d+ samples"):
        run_job(job)


@pytest.mark.system
def test_two_stages_with_ray_train(bench: Bench, pack: tuple[ArtifactRef, ExactGuide]) -> None:
    """Stage 1 on one worker, then a guided row on two: artifacts, counts, metrics, and the trained parameters."""
    every_step = {"execution": Execution(log_every=1)}
    job = bench.job("stage1", "checkpoint", params("stage1", True), {"pack": pack[0]}).model_copy(update=every_step)
    first = run_job(job)
    counts = first.manifest.counts
    assert (counts.rows_in, counts.rows_out, counts.rejected, counts.not_selected) == (20, 12, {"text_only": 3}, 5)
    assert len(pq.read_table(first.local() / "rejects.parquet")) == 3
    stage = read_json(first.local() / "stage.json")
    assert stage["trainable"]["language model"] == 0 < stage["trainable"]["adapter"]
    assert stage["system_prompt"] == "Be short."
    metrics = pq.read_table(first.local() / "metrics.parquet")
    assert metrics.schema.equals(METRICS)
    assert pq.read_table(first.local() / "provenance" / "speed.parquet").schema.equals(SPEED)
    assert metrics["step"].to_pylist() == [1, 2]

    # Made again it has the same content, so artifacts that were made from it do not become stale.
    shutil.rmtree(Path(first.path()).parent)
    manifest = first.manifest
    first = run_job(job)
    assert first.manifest.sha256 != manifest.sha256
    assert first.manifest.content_sha256 == manifest.content_sha256

    inputs = {"pack": pack[0], "parent": first.ref, "masks": bench.masks(pack[1])}
    two = Resources(cpus=1, threads=1, micro_batch=2, workers=2)
    third = run_job(bench.job("stage3", "checkpoint", params("stage3"), inputs, two))
    stage = read_json(third.local() / "stage.json")
    assert stage["guided_rows"] > 0
    assert stage["order"]["guided"]["mean"] > 0
    assert len(pq.read_table(third.local() / "metrics.parquet")["attention_in_mask"][0].as_py()) == 2
    before, after = (load_student(a.local() / "model")[0].state_dict() for a in (first, third))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(
        "cross_att" in n or ".adapter." in n or ".stages.3." in n or ".layers.1." in n or ".layers.4." in n
        for n in changed
    )
    assert third.manifest.provenance.device == "cpu"
    assert not third.verify()
