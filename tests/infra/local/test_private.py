"""The home and all that is in it is for its owner only, whatever was there and whatever the user's umask is."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.folders import Folders
from infra.local.hosts import check_host, is_loopback, warning
from infra.local.private import PRIVATE, mend, new_files, own_folder, read_umask
from infra.local.processes import spawn
from infra.local.stack_file import StackError, StackState
from tests.infra.local.fixtures_home import wait_for


@pytest.fixture(params=[0, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The umask of the user's shell."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_what_a_process_of_the_stack_writes_is_private(umask: int, folders: Folders) -> None:
    code = "import os, socket; os.mkdir('made'); open('made/file', 'w').close(); socket.socket(1).bind('made/socket')"
    target = folders.home / "there"
    target.mkdir(parents=True)
    spawn(folders, "x", ["sh", "-c", f'cd "{target}" && exec python3 -c "{code}"'], StackState(id="umask-test"))
    made = target / "made"
    wait_for(lambda: (made / "socket").exists(), 30)
    assert (mode(made), mode(made / "file"), mode(made / "socket")) == (0o700, 0o600, 0o700)
    with new_files(folders.umask):
        (target / "own").touch()
    assert mode(target / "own") == 0o600
    (target / "after").touch()
    assert mode(target / "after") == 0o666 & ~umask, "the user's umask is back"


def test_a_home_is_made_private_and_an_open_one_is_closed(umask: int, tmp_path: Path) -> None:
    own_folder(tmp_path / "a" / "home", "")
    assert mode(tmp_path / "a" / "home") == 0o700
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o777)
    own_folder(tmp_path / "home", "")
    assert mode(tmp_path / "home") == 0o700


def test_a_home_for_all_users_is_refused() -> None:
    before = mode(Path("/tmp"))
    with pytest.raises(StackError, match=r"is a folder for all users|belongs to another user"):
        own_folder(Path("/tmp"), "elsewhere")
    assert mode(Path("/tmp")) == before


def test_links_files_and_foreign_folders_are_no_home(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(StackError, match="or is a link; set it"):
        own_folder(tmp_path / "link", "set it")
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="cannot be created"):
        own_folder(tmp_path / "file" / "home", "")
    if os.getuid() == 0:
        os.chown(tmp_path / "target", 65534, 65534)
        with pytest.raises(StackError, match="belongs to another user"):
            own_folder(tmp_path / "target", "")


def test_open_modes_are_mended_and_links_are_not_followed(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (home / "ray" / "sockets").mkdir(parents=True)
    (home / "db").touch()
    (home / "program").touch()
    (home / "link").symlink_to(outside)
    for path, bits in ((outside, 0o777), (outside / "file", 0o666), (home / "ray", 0o777), (home / "db", 0o644)):
        path.chmod(bits)
    (home / "ray" / "sockets").chmod(0o1777)
    (home / "program").chmod(0o755)
    assert mend(home, PRIVATE) == 4
    assert (mode(home / "db"), mode(home / "program")) == (0o600, 0o700)
    assert (mode(home / "ray"), mode(home / "ray" / "sockets")) == (0o700, 0o1700)
    assert (mode(outside), mode(outside / "file")) == (0o777, 0o666)
    assert mend(home, PRIVATE) == 0
    assert mend(tmp_path / "missing", PRIVATE) == 0


def test_a_shared_store_keeps_the_groups_permissions(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(0o664)
    mend(tmp_path, 0o007)
    assert mode(tmp_path / "file") == 0o660


@given(mask=st.integers(0, PRIVATE))
def test_umasks_for_groups_are_read(mask: int) -> None:
    assert read_umask(f"{mask:03o}") == mask


@pytest.mark.parametrize("text", ["700", "100", "8", "-1", "u=rwx", "0x7", "77777", " 077"])
def test_other_umasks_are_refused(text: str) -> None:
    with pytest.raises(StackError, match=r"AGEVLM_UMASK = '.*' is not an octal mask from 000 to 077"):
        read_umask(text)


def test_without_the_variable_files_are_private() -> None:
    assert read_umask(None) == read_umask("") == PRIVATE == 0o077


def test_addresses_to_listen_on() -> None:
    assert check_host("localhost") == check_host("127.0.0.1") == "127.0.0.1"
    assert check_host("0.0.0.0") == "0.0.0.0"
    assert is_loopback("127.0.0.7")
    assert warning("127.0.0.1") == ""
    assert "plain HTTP" in warning("0.0.0.0")


@pytest.mark.parametrize("host", ["", "::", "example.org", "0.0.0.0:80", "300.1.1.1", "192.0.2.1", "-h"])
def test_what_is_no_address_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(StackError, match=r"is not an IPv4 address|is no address of this machine"):
        check_host(host)
