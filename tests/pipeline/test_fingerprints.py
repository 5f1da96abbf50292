"""Fingerprints: they follow content, not time or place."""

import os
import shutil
from pathlib import Path

import pytest

from model.errors import ConfigError, DataError
from pipeline.fingerprints import Fingerprints
from pipeline.sources.config import CambrianSource, MiniatureSource


@pytest.fixture
def raw(tmp_path: Path) -> CambrianSource:
    images = tmp_path / "raw" / "images"
    images.mkdir(parents=True)
    (images / "a.jpg").write_bytes(b"a")
    (tmp_path / "raw" / "data.jsonl").write_text("{}\n")
    return CambrianSource(annotations=str(tmp_path / "raw" / "data.jsonl"), images=str(images))


def test_moving_and_touching_raw_data_changes_nothing(tmp_path: Path, raw: CambrianSource) -> None:
    fingerprints = Fingerprints(tmp_path / "cache")
    before = fingerprints.source("pretrain", raw)
    os.utime(raw.annotations, (1, 1))
    assert fingerprints.source("pretrain", raw) == before
    shutil.move(str(tmp_path / "raw"), str(tmp_path / "elsewhere"))
    moved = CambrianSource(
        annotations=str(tmp_path / "elsewhere" / "data.jsonl"), images=str(tmp_path / "elsewhere" / "images")
    )
    assert fingerprints.source("pretrain", moved) == before


def test_changed_raw_data_has_another_fingerprint(tmp_path: Path, raw: CambrianSource) -> None:
    fingerprints = Fingerprints(tmp_path / "cache")
    seen = {fingerprints.source("pretrain", raw)}
    Path(raw.annotations).write_text("{ }\n")
    seen.add(fingerprints.source("pretrain", raw))
    (Path(raw.images) / "a.jpg").write_bytes(b"aa")
    seen.add(fingerprints.source("pretrain", raw))
    (Path(raw.images) / "b.jpg").write_bytes(b"b")
    seen.add(fingerprints.source("pretrain", raw))
    assert len(seen) == 4


def test_a_checksum_is_computed_once(tmp_path: Path, raw: CambrianSource, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprints = Fingerprints(tmp_path / "cache")
    before = fingerprints.file(Path(raw.annotations))

    def explode(stream: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr("pipeline.fingerprints.sha256_of", explode)
    assert Fingerprints(tmp_path / "cache").file(Path(raw.annotations)) == before


def test_missing_raw_data_names_the_path(tmp_path: Path) -> None:
    source = CambrianSource(annotations=str(tmp_path / "no.jsonl"), images=str(tmp_path))
    with pytest.raises(DataError, match=r"data\.pretrain: annotation file .*no\.jsonl does not exist"):
        Fingerprints(tmp_path / "cache").source("pretrain", source)


def test_a_miniature_world_is_named_by_its_code_and_sizes(tmp_path: Path) -> None:
    fingerprints = Fingerprints(tmp_path / "cache")
    first = fingerprints.source("pretrain", MiniatureSource(records="captions", scenes=10, seed=1))
    assert first == fingerprints.source("instruct", MiniatureSource(records="captions", scenes=10, seed=1))
    assert first != fingerprints.source("pretrain", MiniatureSource(records="captions", scenes=11, seed=1))


def test_hub_weights_need_a_commit(tmp_path: Path) -> None:
    fingerprints = Fingerprints(tmp_path / "cache")
    name = f"hub:florence-community/Florence-2-large@{'a' * 40}"
    assert fingerprints.weights("florence", name) == name
    with pytest.raises(ConfigError, match="COMMIT"):
        fingerprints.weights("florence", "hub:florence-community/Florence-2-large")
    with pytest.raises(ConfigError, match="does not exist"):
        fingerprints.weights("sam", str(tmp_path / "none.pth"))
