"""The program behind `agevlm check-alignment`, on a small store with a guided and an unguided checkpoint."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from model.errors import ConfigError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.schemas import MASKS, part_name
from pipeline.student.check_alignment import CheckedStage, as_json, check, main, stage_of_checkpoint
from pipeline.training.config import StageConfig, StudentConfig
from pipeline.training.student import join_backbones
from tests.pipeline.training.fixtures_tiny_training import make_backbones, make_pack

CONFIG = StageConfig(global_batch=8, held_out=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A pack of 24 scenes with exact masks, and checkpoints of stage3 and of stage3_baseline."""
    root = tmp_path_factory.mktemp("check")
    weights = make_backbones(root / "backbones")
    _, processor = join_backbones(StudentConfig(cross_attention_layers=(1, 4)), weights["text"], weights["vision"], 0)
    guide = make_pack(root / "pack", processor, 24, text_only=7, guided_every=2)
    rows = [{**dict.fromkeys(MASKS.names), **mask, "status": "ok"} for mask in guide.masks.values()]
    (root / "masks").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=MASKS), root / "masks" / part_name(0, 1))
    processor.save_pretrained(root / "checkpoint" / "model")
    store = ArtifactStore(str(root / "store"))
    pack, masks = publish(store, "pack", "pretrain", root / "pack"), publish(store, "masks", "pretrain", root / "masks")
    params = {"row": "stage3", "config": CONFIG.model_dump(mode="json"), "seed": 0}
    inputs = {"pack": pack, "masks": masks}
    guided = publish(store, "checkpoint", "stage3", root / "checkpoint", params, inputs)
    plain = publish(store, "checkpoint", "stage3_baseline", root / "checkpoint", params, {"pack": pack})
    return SimpleNamespace(root=root, store=store, guided=guided, plain=plain, masks=masks, weights=weights)


def publish(
    store: ArtifactStore,
    kind: str,
    name: str,
    folder: Path,
    params: dict[str, Any] | None = None,
    inputs: dict[str, Artifact] | None = None,
) -> Artifact:
    """Publish a folder as an artifact."""
    parents = inputs or {}
    spec = StepSpec(step=name, revision=1, params=params or {}, inputs={n: a.ref.id for n, a in parents.items()})
    staging = Staging(store, ArtifactRef(kind=kind, name=name, id=spec.id()), spec, 0, parents)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        staging.write_bytes(file.relative_to(folder).as_posix(), file.read_bytes())
    return staging.publish(Counts(unit="row", rows_in=1, rows_out=1))


def test_a_checkpoint_is_checked_by_the_stage_that_made_it(made: SimpleNamespace) -> None:
    stage = stage_of_checkpoint(made.guided)
    checked = check(made.store, stage, rows=6)
    assert checked.proof.problems == []
    told = as_json(checked.proof)
    assert (told["stage"], told["rows"], told["problems"]) == ("stage3", 6, [])
    assert all(sample["words"] and sample["areas"] for sample in told["samples"])
    json.dumps(told)


def test_a_stage_that_is_not_trained_is_checked_with_its_backbones(made: SimpleNamespace) -> None:
    stage = stage_of_checkpoint(made.guided).model_copy(update={"student": None, **made.weights})
    assert check(made.store, CheckedStage.model_validate(stage.model_dump()), rows=4).proof.problems == []
    with pytest.raises(ConfigError, match="give a checkpoint with its processor, or both backbones"):
        check(made.store, stage.model_copy(update={"text": None}), rows=4)


def test_what_has_no_guidance_is_refused(made: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="its stage has no guidance loss, so there is nothing to check; give a"):
        stage_of_checkpoint(made.plain)
    with pytest.raises(ConfigError, match="is no checkpoint; 'agevlm artifacts --kind checkpoint' lists them"):
        stage_of_checkpoint(made.masks)


def test_the_program_prints_saves_and_ends_with_1_if_something_is_wrong(made: SimpleNamespace, tmp_path: Path) -> None:
    table = pq.read_table(made.root / "masks" / part_name(0, 1))
    names = table["sample_id"].to_pylist()
    pq.write_table(table.set_column(0, "sample_id", [names[1:] + names[:1]]), tmp_path / part_name(0, 1))
    wrong = publish(made.store, "masks", "wrong", tmp_path)
    stage = stage_of_checkpoint(made.guided).model_copy(update={"masks": wrong.ref})
    app = typer.Typer()
    app.command()(main)
    options = ["--store", str(made.root / "store"), "--rows", "5", "--save", str(tmp_path / "sheet.png")]
    done = CliRunner().invoke(app, [*options, "--stage", stage.model_dump_json(), "--", made.guided.ref.id])
    assert done.exit_code == 1, done.output
    assert "alignment of stage3: all right (5 rows" in done.output
    assert "alignment of stage3: 5 rows are wrong" in done.output
    assert "is about another picture" in done.output
    assert (tmp_path / "sheet.png").is_file()
