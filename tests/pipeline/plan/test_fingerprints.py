"""Fingerprints: they depend on content, not on time or place."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.plan.fingerprints as fingerprints_module
from model.errors import DataError
from pipeline.plan.fingerprints import Fingerprints
from pipeline.sources.config import CambrianSource, FolderSource, MiniatureSource


@pytest.fixture
def raw(tmp_path: Path) -> CambrianSource:
    images = tmp_path / "raw" / "images"
    images.mkdir(parents=True)
    (images / "a.jpg").write_bytes(b"a")
    (tmp_path / "raw" / "data.jsonl").write_text("{}\n")
    return CambrianSource(annotations=str(tmp_path / "raw" / "data.jsonl"), images=str(images))


def test_moving_and_touching_raw_data_changes_nothing(tmp_path: Path, raw: CambrianSource) -> None:
    fingerprints = Fingerprints(tmp_path / "scratch")
    before = fingerprints.source("pretrain", raw)
    os.utime(raw.annotations, (1, 1))
    assert fingerprints.source("pretrain", raw) == before
    shutil.move(str(tmp_path / "raw"), str(tmp_path / "elsewhere"))
    moved = CambrianSource(
        annotations=str(tmp_path / "elsewhere" / "data.jsonl"), images=str(tmp_path / "elsewhere" / "images")
    )
    assert fingerprints.source("pretrain", moved) == before


def test_changed_raw_data_has_another_fingerprint(tmp_path: Path, raw: CambrianSource) -> None:
    def fingerprint() -> str:
        return Fingerprints(tmp_path / "scratch").source("pretrain", raw)

    seen = {fingerprint()}
    Path(raw.annotations).write_text("{ }\n")
    seen.add(fingerprint())
    (Path(raw.images) / "a.jpg").write_bytes(b"aa")
    seen.add(fingerprint())
    (Path(raw.images) / "b.jpg").write_bytes(b"b")
    seen.add(fingerprint())
    assert len(seen) == 4


def test_a_folder_is_listed_once_in_a_plan_and_again_in_a_step_only_if_names_changed(
    tmp_path: Path, raw: CambrianSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints_module, "RECENT_NS", 0)
    listed: list[Path] = []
    really = fingerprints_module.listing

    def counted(folder: Path, folders: dict[str, list[int]] | None = None) -> str:
        listed.append(folder)
        return really(folder, folders)

    monkeypatch.setattr(fingerprints_module, "listing", counted)
    other = raw.model_copy(update={"folder_aliases": {"a": "b"}})
    plan = Fingerprints(tmp_path / "scratch")
    planned = plan.source("pretrain", raw)
    assert plan.source("instruct", other) == planned
    assert len(listed) == 1, "two data sets share the folder"

    def in_a_step() -> str:
        return Fingerprints(tmp_path / "scratch", planning=False).source("pretrain", raw)

    assert in_a_step() == planned
    (Path(raw.images) / "a.jpg").write_bytes(b"overwritten in place: pack and segment compare checksums")
    assert in_a_step() == planned
    assert len(listed) == 1
    (Path(raw.images) / "b.jpg").write_bytes(b"b")
    assert in_a_step() != planned
    assert len(listed) == 2
    assert Fingerprints(tmp_path / "scratch").source("pretrain", raw) != planned
    assert len(listed) == 3, "a plan looks at every file"


def test_the_role_of_a_file_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    file.write_text("{}")
    fingerprints = Fingerprints(tmp_path / "scratch")
    images = tmp_path / "images"
    images.mkdir()
    captions = fingerprints.source("pretrain", FolderSource(images=str(images), captions=str(file)))
    assert captions != fingerprints.source("pretrain", FolderSource(images=str(images), instances=str(file)))


def test_the_content_of_metadata_among_the_images_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    """Images are compared by name and size only, but such a file is an annotation file."""
    images, fingerprints = tmp_path / "images", Fingerprints(tmp_path / "scratch")
    (images / "train").mkdir(parents=True)
    seen = set()
    for text in ("A dog.", "A cat."):
        (images / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "0.jpg", "text": text}))
        seen.add(fingerprints.source("pretrain", FolderSource(images=str(images))))
    assert len(seen) == 2


# -- checksums of files


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The content of each file that was hashed."""
    seen: list[bytes] = []

    def sha256_of(stream: IO[bytes]) -> tuple[str, int]:
        seen.append(stream.read())
        return hashlib.sha256(seen[-1]).hexdigest(), len(seen[-1])

    monkeypatch.setattr("pipeline.plan.fingerprints.sha256_of", sha256_of)
    return seen


@pytest.mark.usefixtures("at_rest")
def test_a_checksum_is_computed_once(tmp_path: Path, hashed: list[bytes]) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    before = Fingerprints(tmp_path / "scratch").file(tmp_path / "a")
    assert Fingerprints(tmp_path / "scratch").file(tmp_path / "a") == before
    assert hashed == [b"aaa"]


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("replaced", [False, True], ids=["written in place", "another file"])
def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, replaced: bool) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"aaa")
    fingerprints = Fingerprints(tmp_path / "scratch")
    fingerprints.file(file)
    status = file.stat()
    time.sleep(0.05)  # more than the resolution of the file system's times
    if replaced:
        (tmp_path / "b").write_bytes(b"bbb")
        os.replace(tmp_path / "b", file)
    else:
        file.write_bytes(b"bbb")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert fingerprints.file(file) == hashlib.sha256(b"bbb").hexdigest()


def test_a_file_that_changed_just_now_is_not_cached(tmp_path: Path, hashed: list[bytes]) -> None:
    """It could change again within the resolution of the file system's timestamps."""
    (tmp_path / "a").write_bytes(b"aaa")
    fingerprints = Fingerprints(tmp_path / "scratch")
    assert fingerprints.file(tmp_path / "a") == fingerprints.file(tmp_path / "a")
    assert hashed == [b"aaa", b"aaa"]
    assert not (tmp_path / "scratch" / "fingerprints").exists()


@given(st.lists(st.binary(min_size=3, max_size=3), min_size=2, max_size=6))
def test_a_checksum_is_right_however_fast_the_file_changes(contents: list[bytes]) -> None:
    """Every write keeps the size and resets the modification time."""
    with tempfile.TemporaryDirectory() as name:
        file, fingerprints = Path(name) / "a", Fingerprints(Path(name) / "scratch")
        for content in contents:
            file.write_bytes(content)
            os.utime(file, ns=(1, 1))
            assert fingerprints.file(file) == hashlib.sha256(content).hexdigest()


@pytest.mark.usefixtures("at_rest")
def test_a_file_that_changes_while_it_is_hashed_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"aaa")

    def sha256_of(stream: IO[bytes]) -> tuple[str, int]:
        file.write_bytes(b"longer")
        return "0" * 64, 3

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.plan.fingerprints.sha256_of", sha256_of)
        Fingerprints(tmp_path / "scratch").file(file)
    assert Fingerprints(tmp_path / "scratch").file(file) == hashlib.sha256(b"longer").hexdigest()


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_cache_entry_is_computed_again(tmp_path: Path, hashed: list[bytes], content: str) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    fingerprints = Fingerprints(tmp_path / "scratch")
    before = fingerprints.file(tmp_path / "a")
    (entry,) = (tmp_path / "scratch" / "fingerprints").iterdir()
    entry.write_text(content)
    assert fingerprints.file(tmp_path / "a") == before
    assert fingerprints.file(tmp_path / "a") == before
    assert hashed == [b"aaa", b"aaa"]


def test_an_unreadable_folder_is_a_data_error(
    tmp_path: Path, raw: CambrianSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scandir(path: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"data\.pretrain: .*/images/ cannot be read \(Permission denied\)"):
        Fingerprints(tmp_path / "scratch").source("pretrain", raw)


def test_an_unreadable_annotation_file_is_a_data_error(
    tmp_path: Path, raw: CambrianSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(stream: IO[bytes]) -> None:
        raise OSError(errno.EIO, "Input/output error", os.fsencode(raw.annotations) + b"\xff")

    monkeypatch.setattr("pipeline.plan.fingerprints.sha256_of", fails)
    with pytest.raises(DataError, match=r"data\.jsonl\\xff cannot be read \(Input/output error\)") as caught:
        Fingerprints(tmp_path / "scratch").source("pretrain", raw)
    assert str(caught.value).encode("utf-8")


def test_missing_raw_data_names_the_path(tmp_path: Path) -> None:
    source = CambrianSource(annotations=str(tmp_path / "no.jsonl"), images=str(tmp_path))
    with pytest.raises(DataError, match=r"data\.pretrain: annotation file .*no\.jsonl does not exist"):
        Fingerprints(tmp_path / "scratch").source("pretrain", source)


def test_a_miniature_worlds_fingerprint_depends_on_its_code_and_settings(tmp_path: Path) -> None:
    fingerprints = Fingerprints(tmp_path / "scratch")
    first = fingerprints.source("pretrain", MiniatureSource(records="captions", scenes=10, seed=1))
    assert first == fingerprints.source("instruct", MiniatureSource(records="captions", scenes=10, seed=1))
    assert first != fingerprints.source("pretrain", MiniatureSource(records="captions", scenes=11, seed=1))


def test_a_cache_that_cannot_be_written_is_told_once_and_blamed_on_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(fingerprints_module, "write_text", full)
    weights = {role: Fingerprints(tmp_path / "kept").weights(role, "miniature") for role in ("florence", "sam")}
    found = Fingerprints(tmp_path / "cache")
    assert {role: found.weights(role, "miniature") for role in ("florence", "sam")} == weights
    told = capsys.readouterr().err.splitlines()
    assert len([line for line in told if str(tmp_path / "cache") in line]) == 1
    assert "checksums are not kept" in told[-1]
    assert "the disk is full" in told[-1]
