"""The secret of a home: readable by its owner only, and never shown."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.local import web
from infra.local.folders import Folders
from infra.local.secret import make_secret, read_secret, secret_hint
from infra.local.stack_file import StackError
from tests.infra.local.fixtures_http_server import serving


def test_the_secret_is_readable_by_its_owner_only_and_stays(folders: Folders) -> None:
    path = folders.secret
    make_secret(path)
    secret = path.read_text()
    assert len(secret) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    make_secret(path)
    assert path.read_text() == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_hint_names_the_file_of_the_secret_and_never_the_token(folders: Folders) -> None:
    path = folders.secret
    make_secret(path)
    assert secret_hint(folders) == f"ask once for the secret: cat {path}"
    path.unlink()
    assert secret_hint(folders) == (f"ask for a secret, but {path} is gone: 'agevlm up' writes it again")


def test_a_damaged_secret_is_read_and_then_refused(folders: Folders) -> None:
    assert read_secret(folders) == ""
    folders.secret.parent.mkdir()
    folders.secret.write_bytes(b"caf\xe9\n")
    secret = read_secret(folders)
    with serving(lambda *_: (200, {})) as port:
        assert web.answers(f"http://127.0.0.1:{port}/", authorization=web.bearer(secret)) is None  # and no traceback


def test_processes_that_make_it_at_the_same_time_agree(folders: Folders) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make_secret(folders.secret), range(8)))
    assert made.count(True) == 1
    assert [path.name for path in folders.home.iterdir()] == ["secret"], "no draft is left"
    assert len(read_secret(folders)) == 64


def test_a_lost_secret_is_written_again_as_it_was(folders: Folders) -> None:
    assert make_secret(folders.secret, known="k" * 40)
    assert read_secret(folders) == "k" * 40
    assert not make_secret(folders.secret, known="other" * 10)
    assert read_secret(folders) == "k" * 40


@pytest.mark.parametrize("text", ["", "\n", "short", "x" * 31, "two words " * 8, "caf\u00e9" * 10, "a\nb" * 20])
def test_a_secret_that_protects_nothing_is_refused(text: str, folders: Folders) -> None:
    folders.home.mkdir()
    folders.secret.write_text(text, encoding="utf-8")
    with pytest.raises(StackError, match=r"is damaged: .*; end the stack with 'agevlm down', remove it"):
        make_secret(folders.secret)


def test_what_is_no_file_of_this_user_is_refused(folders: Folders, tmp_path: Path) -> None:
    folders.home.mkdir()
    (tmp_path / "elsewhere").write_text("s" * 64)
    folders.secret.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StackError, match="is a link"):
        make_secret(folders.secret)
    folders.secret.unlink()
    folders.secret.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StackError, match="is a link"):
        make_secret(folders.secret)
    folders.secret.unlink()
    folders.secret.mkdir()
    with pytest.raises(StackError, match="is no file"):
        make_secret(folders.secret)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_secret_of_another_user_is_refused(folders: Folders) -> None:
    make_secret(folders.secret)
    os.chown(folders.secret, 65534, 65534)
    with pytest.raises(StackError, match="belongs to the user 65534"):
        make_secret(folders.secret)
