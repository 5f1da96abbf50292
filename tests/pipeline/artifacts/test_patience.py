"""Faults of the store: passing ones are waited for, a full disk ends the step, other errors are raised as they are."""

import errno
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model.errors import DataError, ImageError, StepError
from pipeline.artifacts import filesystem, patience
from pipeline.artifacts.patience import patiently
from pipeline.artifacts.shards import Shards
from pipeline.artifacts.store import ArtifactStore
from tests.fixtures_faulty_store import FAULTS, SCHEME, fail, register
from tests.pipeline.artifacts.fixtures_shards import NAME, commit


class Failing:
    """Fails some times with an error, then answers."""

    def __init__(self, error: BaseException, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "done"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, on a clock that only they move."""
    made: list[float] = []
    monkeypatch.setattr(patience, "time", SimpleNamespace(sleep=made.append, monotonic=lambda: sum(made)))
    return made


def test_a_store_that_fails_for_a_minute_is_waited_for(pauses: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    failing = Failing(OSError(errno.EIO, "the store does not answer"), 7)
    assert patiently("shard x", failing) == "done"
    assert 45 < sum(pauses) < 120
    told = "shard x: the store fails ([Errno 5] the store does not answer); trying again in 0.5 s"
    assert told in capsys.readouterr().out


def test_a_store_that_never_answers_ends_the_step_in_bounded_time(pauses: list[float]) -> None:
    with pytest.raises(StepError, match=r"shard x: the store has failed for 300 s .*run the step again"):
        patiently("shard x", Failing(ConnectionResetError("gone"), sys.maxsize))
    assert sum(pauses) <= patience.OUTAGE_SECONDS


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_step_at_once(pauses: list[float], number: int) -> None:
    with pytest.raises(StepError, match=r"shard x: the disk is full .*free some space"):
        patiently("shard x", Failing(OSError(number, "full"), 1))
    assert pauses == []


def refused(status: int) -> OSError:
    """The error that s3fs makes of an answer that it does not know."""
    error = OSError(errno.EIO, f"status {status}")
    error.__cause__ = SimpleResponse({"ResponseMetadata": {"HTTPStatusCode": status}})
    return error


class SimpleResponse(Exception):
    """botocore's ClientError: an error with the store's answer."""

    def __init__(self, response: dict[str, Any]) -> None:
        self.response = response


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("x"),
        FileExistsError("x"),
        PermissionError(errno.EACCES, "no"),
        OSError(errno.EROFS, "read-only file system"),
        OSError(errno.ENAMETOOLONG, "name too long"),
        OSError(errno.EINVAL, "no such thing"),
        OSError("without a number"),
        refused(400),
        refused(403),
        ImageError("missing_image", "not there"),
        ValueError("wrong"),
    ],
    ids=str,
)
def test_other_errors_are_raised_as_they_are(pauses: list[float], error: Exception) -> None:
    with pytest.raises(type(error)):
        patiently("shard x", Failing(error, 1))
    assert pauses == []


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Shards, Path]:
    register()
    monkeypatch.setenv(FAULTS, str(tmp_path / "faults"))
    return Shards(ArtifactStore(f"{SCHEME}{tmp_path}/store"), "segments/a/b/data-1", "inputs"), tmp_path / "faults"


def test_a_commit_outlives_an_outage(faulty: tuple[Shards, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shards, faults = faulty
    fail(faults, "down 1e12")
    clock = SimpleNamespace(sleep=lambda seconds: fail(faults, ""), monotonic=lambda: 0.0)
    monkeypatch.setattr(patience, "time", clock)
    seal = commit(shards)
    assert shards.committed() == {NAME: seal}


def test_a_full_disk_leaves_no_commit_and_the_next_try_makes_it(faulty: tuple[Shards, Path]) -> None:
    shards, faults = faulty
    first = commit(shards, b"first", "part-00001-of-00002")
    fail(faults, "full")
    with pytest.raises(StepError, match=r"shard part-00000-of-00002 in faulty:///.*the disk is full"):
        commit(shards)
    assert list(shards.committed().values()) == [first]
    fail(faults, "")
    assert commit(shards).rows == 3
    assert len(shards.committed()) == 2


@pytest.mark.parametrize("writes", ["create", "_sync"])
def test_a_full_local_disk_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: str) -> None:
    shards = Shards(ArtifactStore(str(tmp_path)), "segments/a/b/data-1", "inputs")
    whole: Callable[..., object] = getattr(filesystem, writes)

    def full(*arguments: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(filesystem, writes, full)
    with pytest.raises(StepError, match="the disk is full"):
        commit(pickle.loads(pickle.dumps(shards)))
    monkeypatch.setattr(filesystem, writes, whole)
    assert shards.committed() == {}
    commit(shards)


def from_images(number: int) -> DataError:
    """The error of a folder of images that does not answer."""
    error = DataError("the images cannot be read now")
    error.__cause__ = OSError(number, "gone")
    return error


def unreachable() -> Exception:
    from botocore.exceptions import EndpointConnectionError

    error: Exception = EndpointConnectionError(endpoint_url="http://store")
    return error


@pytest.mark.parametrize(
    "make",
    [
        lambda: from_images(errno.EIO),
        unreachable,
        lambda: refused(503),
        lambda: refused(429),
        lambda: TimeoutError("late"),
        lambda: ConnectionResetError("gone"),
        lambda: OSError(errno.EREMOTEIO, "internal error"),
    ],
)
def test_errors_that_can_pass_are_waited_for(pauses: list[float], make: Callable[[], Exception]) -> None:
    assert patiently("shard x", Failing(make(), 2)) == "done"
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_a_cancelled_wait_ends_at_once(monkeypatch: pytest.MonkeyPatch, end: type[BaseException]) -> None:
    calls = Failing(OSError(errno.EIO, "gone"), sys.maxsize)

    def cancelled(seconds: float) -> None:
        raise end

    monkeypatch.setattr(patience, "time", SimpleNamespace(sleep=cancelled, monotonic=lambda: 0.0))
    with pytest.raises(end):
        patiently("shard x", calls)
    assert calls.calls == 1


class LostAnswers:
    """Writes that succeed, but whose answer is lost the first time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
        self.names: list[str] = []
        plain = filesystem.create

        def create(fs: Any, path: str, source: Path) -> bool:
            made = plain(fs, path, source)
            if path not in self.names:
                self.names.append(path)
                raise error
            return made

        monkeypatch.setattr(filesystem, "create", create)


@pytest.mark.parametrize("error", [TimeoutError("late"), OSError(errno.EIO, "unknown"), ConnectionResetError("gone")])
@pytest.mark.parametrize("scheme", ["", SCHEME])
def test_a_commit_whose_answers_are_lost_is_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float], error: OSError, scheme: str
) -> None:
    register()
    shards = Shards(ArtifactStore(f"{scheme}{tmp_path}/store"), "segments/a/b/data-1", "inputs")
    lost = LostAnswers(monkeypatch, error)
    seal = commit(shards)
    assert shards.committed() == {NAME: seal}
    assert len(lost.names) == len(pauses) == len(seal.files) + 1
