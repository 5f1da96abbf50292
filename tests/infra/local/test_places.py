"""The folders of a stack are refused before anything starts, or made to work: names, rights, room, TMPDIR."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from multiprocessing.connection import Listener
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.local import places
from infra.local.environment import process_environment
from infra.local.folders import PLAIN, Folders
from infra.local.places import check_places, prepare_places
from infra.local.stack_file import StackError
from infra.local.temporary import LONGEST

ODD = [
    "a b",
    "it's",
    'a"b',
    "a#b",
    "a%20b",
    "a$HOME",
    "a&b",
    "a;b",
    "b\u00fccher",
    "[x]",
    "-rf",
    "~",
    "a\\b",
    "(a)",
    "{a}",
    "!",
]


@pytest.mark.parametrize("name", ODD)
def test_rays_folder_and_interpreter_have_names_that_a_shell_takes_as_they_are(
    name: str, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / name / ".venv"
    venv.parent.mkdir()
    venv.symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.setattr(sys, "executable", str(venv / "bin" / "python"))
    odd = replace(folders, home=Path("/tmp") / f"agevlm-test-{os.getpid()}" / name)
    monkeypatch.setattr(places, "_check_room", lambda *_: None)
    assert prepare_places(odd) == []
    try:
        assert PLAIN.fullmatch(str(odd.ray))
        assert odd.ray.is_relative_to(odd.home) == bool(PLAIN.fullmatch(name))
        found = subprocess.run(
            ["bash", "-c", f"exec {odd.python} -c 'import sys; print(sys.prefix)'"],  # as Ray starts its workers
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert Path(found.strip()).resolve() == venv.resolve()
    finally:
        odd.python_link.unlink(missing_ok=True)
        odd.ray.rmdir()


@pytest.mark.parametrize("name", ["a:b", "a\nb", "a\tb", "a\x1bb"])
def test_a_project_that_pythons_search_path_cannot_name_is_refused(name: str, folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"the project's folder .* has .* in its path.*move the project"):
        check_places(replace(folders, project=tmp_path / name))
    assert not folders.home.exists(), "nothing was made"


@pytest.mark.parametrize(("name", "refused"), [("a?b", True), ("a\nb", True), ("a\udcffb", True), ("a b", False)])
def test_a_home_that_prefects_database_cannot_name_is_refused(
    name: str, refused: bool, folders: Folders, tmp_path: Path
) -> None:
    odd = replace(folders, home=tmp_path / name)
    if not refused:
        check_places(odd)
        return
    with pytest.raises(StackError, match=r"the home folder .* has .* in its path.*set AGEVLM_HOME"):
        check_places(odd)


def test_a_home_that_is_the_project_is_refused(folders: Folders) -> None:
    with pytest.raises(StackError, match=r"is the project's folder.*set it to a folder of its own"):
        check_places(replace(folders, home=folders.project))


def test_a_home_below_a_file_is_refused_with_path_and_remedy(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=r"file/home cannot be written \(.*\); .*set AGEVLM_HOME"):
        check_places(replace(folders, home=tmp_path / "file" / "home"))


def test_a_store_on_a_read_only_disk_is_refused(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path, **_: object) -> object:
        if Path(dir) == Path(folders.store):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))
        return open(os.devnull, "wb")

    monkeypatch.setattr(places.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with pytest.raises(StackError, match=r"artifacts cannot be written \(Read-only file system\); .*AGEVLM_STORE"):
        check_places(folders)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"f_bavail": 10, "f_files": 100, "f_favail": 90_000}, r"needs 256 MiB, but its disk has only 0 MiB free"),
        ({"f_bavail": 1 << 20, "f_files": 100, "f_favail": 3}, r"room for 2000 files, .* only 3 inodes free"),
    ],
)
def test_a_full_disk_is_refused_with_the_room(
    status: dict[str, int], words: str, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_frsize=4096, **status))
    with pytest.raises(StackError, match=rf"home .*{words}; make room there, or set AGEVLM_HOME"):
        check_places(folders)


def test_a_full_disk_of_temporary_files_is_refused_with_their_variable(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = replace(folders, home=tmp_path / "a b")  # so Ray's folder lies elsewhere
    room = os.statvfs(tmp_path)
    full = SimpleNamespace(f_frsize=4096, f_bavail=10, f_files=0, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda folder: full if folder == odd.ray else room)
    with pytest.raises(StackError, match=r"agevlm-ray-.* has only 0 MiB free; make room there, or set TMPDIR"):
        check_places(odd)
    odd.ray.rmdir()
    odd.ray.parent.rmdir()


def test_a_full_tmpdir_is_refused(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    room = os.statvfs(tmp_path)
    full = SimpleNamespace(f_frsize=4096, f_bavail=10, f_files=0, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda folder: full if Path(folder) == tmp_path / "t" else room)
    with pytest.raises(StackError, match=r"/t needs 16 MiB, but its disk has only 0 MiB free; .* set TMPDIR"):
        check_places(folders)


def test_disks_without_a_count_of_inodes_pass(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    status = SimpleNamespace(f_frsize=4096, f_bavail=1 << 20, f_files=0, f_favail=0)  # btrfs
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    check_places(folders)


def test_sockets_fit_below_a_long_tmpdir_and_its_files_go_there(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("t" * 80) / ("u" * 80)
    long.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(long))
    assert prepare_places(folders) == []
    given = process_environment(folders, None, {})["TMPDIR"]
    assert len(given) <= LONGEST
    assert Path(given).resolve() == long
    with Listener(f"{given}/listener-12345678", "AF_UNIX"):
        assert (long / "listener-12345678").is_socket()
    monkeypatch.delenv("TMPDIR")
    assert prepare_places(folders) == []
    assert not folders.temporary_link.exists()
    assert "TMPDIR" not in process_environment(folders, None, {})


@pytest.mark.parametrize(("kind", "words"), [("missing", "does not exist"), ("file", "is not a folder")])
def test_a_tmpdir_that_cannot_be_used_is_told_and_left_out(
    kind: str, words: str, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / kind))
    (note,) = prepare_places(folders)
    assert f"{kind} {words}" in note
    assert "TMPDIR" not in process_environment(folders, None, {})


def test_a_relative_tmpdir_means_the_same_folder_everywhere(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "t")
    prepare_places(folders)
    given = process_environment(folders, None, {})["TMPDIR"]
    assert os.path.isabs(given)
    assert Path(given).samefile(tmp_path / "t")
