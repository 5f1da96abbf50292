"""Full and read-only disks: refused before a step starts, and told with path, room and remedy when a write fails."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from model.errors import ConfigError, DataError, StepError
from pipeline.__main__ import told
from pipeline.artifacts import room
from pipeline.artifacts.atomic import write_text
from pipeline.artifacts.filesystem import create_bytes, open_filesystem
from pipeline.artifacts.room import check_room, disk_fault, explained, fault_in_text

MIB = 1 << 20


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the room that every disk has."""

    def give(free: int, inodes: int = 90_000, files: int = 100_000) -> None:
        status = SimpleNamespace(f_frsize=1, f_bavail=free, f_files=files, f_favail=inodes)
        monkeypatch.setattr(room.os, "statvfs", lambda _: status)

    return give


def test_a_step_starts_with_room(disk: Callable[..., None], tmp_path: Path) -> None:
    disk(70 * MIB)
    check_room(str(tmp_path / "store"), str(tmp_path / "scratch"))
    disk(70 * MIB, inodes=0, files=0)  # a file system that counts no inodes
    check_room(str(tmp_path / "store"), str(tmp_path / "scratch"), 65 * MIB)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_step_that_needs_more_is_refused_with_both_figures(disk: Callable[..., None], tmp_path: Path) -> None:
    disk(70 * MIB)
    words = (
        r"the store .*/store needs 5\.0 GiB for this step, but its disk has 70\.0 MiB free; make room .*AGEVLM_STORE"
    )
    with pytest.raises(StepError, match=words):
        check_room(str(tmp_path / "store"), str(tmp_path / "scratch"), 5 << 30)
    check_room("s3://bucket/store", str(tmp_path / "scratch"), 5 << 30)


def test_a_scratch_folder_without_room_or_inodes_is_refused(disk: Callable[..., None], tmp_path: Path) -> None:
    disk(3 * MIB)
    words = r"the scratch folder .* needs 64\.0 MiB for this step, but its disk has 3\.0 MiB free; .*AGEVLM_HOME"
    with pytest.raises(StepError, match=words):
        check_room("s3://bucket/store", str(tmp_path))
    disk(3 << 30, inodes=5)
    with pytest.raises(StepError, match="needs room for 200 files, but has only 5 inodes"):
        check_room("s3://bucket/store", str(tmp_path))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_store_that_cannot_be_written_is_refused_before_the_step(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(number, os.strerror(number), str(folder / "agevlm-probe-1"))

    monkeypatch.setattr(room, "_probe", fail)
    with pytest.raises(StepError) as refused:
        check_room(str(tmp_path / "store"), str(tmp_path / "scratch"))
    assert os.strerror(number) in str(refused.value)
    assert "set AGEVLM_" in str(refused.value)


def full_of(cause: BaseException, error: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device", "/cache/x.json.0123456789abcdef0123456789abcdef.partial")


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        full_of(FULL, ConfigError("weights.florence = 'x': /cache/x.json cannot be read; correct the recipe")),
        full_of(full_of(FULL, ValueError("torch")), DataError("data.pretrain: wrong")),
        full_of(FULL, RuntimeError("a worker failed")),
    ],
)
def test_a_full_disk_is_never_blamed_on_something_else(error: Exception) -> None:
    message = told(error, ["/store"])
    assert message.startswith("StepError: the disk is full (No space left on device): /cache/x.json (its disk has ")
    assert "free some space" in message
    assert "\n  told by: " in message  # indented: it belongs to the message that the flow shows


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SafetensorError: I/O error: IoError(Os { code: 28 }) No space left on device (os error 28)", errno.ENOSPC),
        ("ray.exceptions.RayTaskError: OSError: [Errno 28] Error writing bytes to file", errno.ENOSPC),
        ("PytorchStreamWriter failed writing file: Disk quota exceeded", errno.EDQUOT),
        ("cannot open: Read-only file system (os error 30)", errno.EROFS),
    ],
)
def test_the_errors_of_libraries_are_known_by_their_text(text: str, number: int) -> None:
    found = fault_in_text(text)
    assert found is not None
    assert found.errno == number
    assert told(RuntimeError(text), ["/"]).startswith("StepError: ")


def test_other_errors_stay_what_they_are() -> None:
    assert told(ConfigError("wrong"), []) == "ConfigError: wrong"
    assert told(ValueError("a bug"), []) == ""  # its traceback is needed
    assert disk_fault(ValueError("x")) is None
    assert fault_in_text("28 rows") is None
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/b")
    assert told(missing, []) == "StepError: /a/b: No such file or directory; correct that, and run again"
    assert "give this user the right" in explained(PermissionError(errno.EACCES, "Permission denied", "/a"))


def test_without_a_path_the_place_with_the_least_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_free", lambda path: (5 if path == "/scratch" else 1 << 40, 1000))
    assert "/scratch (its disk has 0.0 MiB free)" in explained(OSError(errno.ENOSPC, "full"), ["/store", "/scratch"])


@pytest.mark.parametrize(
    "write", [write_text, lambda path, text: create_bytes(open_filesystem("/")[0], str(path), b"x")]
)
def test_an_error_while_bytes_are_written_names_the_file(
    write: Callable[[Path, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=str(tmp_path / "name")) as failed:
        write(tmp_path / "name", "text")
    assert failed.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
