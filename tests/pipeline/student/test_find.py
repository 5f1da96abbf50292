"""A checkpoint is found by its folder or by the beginning of its id; errors name anything else."""

import json
import shutil
from pathlib import Path

import pytest

from model.errors import ConfigError, DataError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.student.find import check_model_type, checkpoint_folder
from tests.pipeline.fixtures_finished_run import write_folder


def publish(root: str, kind: str, folder: Path) -> Artifact:
    store, spec = ArtifactStore(root), StepSpec(step="stage1", revision=1, params={"of": kind}, inputs={})
    staging = Staging(store, ArtifactRef(kind=kind, name="stage1", id=spec.id()), spec, 0, {})
    staging.write_bytes("stage.json", b'{"system_prompt": "Be brief."}')
    write_folder(staging, folder, "model")
    return staging.publish(Counts(unit="sample", rows_in=1, rows_out=1))


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_an_id_finds_the_model_and_its_system_prompt(
    scheme: str, model_folder: Path, tmp_path: Path, home: Path
) -> None:
    store = f"{scheme}{tmp_path}/store"
    artifact = publish(store, "checkpoint", model_folder)
    for name in (artifact.ref.id[:12], f"checkpoint/stage1/{artifact.ref.id[:8]}"):
        folder, system = checkpoint_folder(name, store)
        assert (folder / "config.json").read_bytes() == (model_folder / "config.json").read_bytes()
        assert system == "Be brief."
        assert folder.is_relative_to(home / "scratch" if scheme else tmp_path)


def test_a_folder_is_a_model_or_holds_one(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    for folder in (tmp_path, tmp_path / "model"):
        assert checkpoint_folder(str(folder), "none") == (tmp_path / "model", None)


def test_bad_checkpoints_are_refused_by_name(model_folder: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    masks = publish(store, "masks", model_folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        checkpoint_folder(str(tmp_path / "empty"), store)
    with pytest.raises(ConfigError, match="not a checkpoint"):
        checkpoint_folder(masks.ref.id[:12], store)


def test_a_damaged_record_of_the_stage_is_refused(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    for content in (b"{", b"[]", b"\xff"):
        (tmp_path / "stage.json").write_bytes(content)
        with pytest.raises(DataError, match=r"stage\.json is damaged"):
            checkpoint_folder(str(tmp_path), "none")


def test_an_empty_system_turn_stays_one(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    for content, expected in ((b'{"system_prompt": ""}', ""), (b'{"system_prompt": null}', None), (b"{}", None)):
        (tmp_path / "stage.json").write_bytes(content)
        assert checkpoint_folder(str(tmp_path), "none")[1] == expected


def test_another_model_is_refused_by_its_type(model_folder: Path, tmp_path: Path) -> None:
    check_model_type(model_folder)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ConfigError, match="holds a 'llama', not an AGE-VLM"):
        check_model_type(tmp_path)
    for content in ("[]", "{", "1"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(DataError, match=r"config\.json is damaged"):
            check_model_type(tmp_path)
