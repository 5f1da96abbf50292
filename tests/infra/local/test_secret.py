"""The secret of a home: readable by its owner only, and never shown."""

import stat

from infra.local import web
from infra.local.folders import Folders
from infra.local.secret import make_secret, read_secret, secret_hint
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
    assert secret_hint(folders) == f"asks once for the secret: cat {path}"
    path.unlink()
    assert secret_hint(folders) == (
        f"asks for a secret, but {path} is gone: end the stack with 'agevlm down' and start it again"
    )


def test_a_damaged_secret_is_read_and_then_refused(folders: Folders) -> None:
    assert read_secret(folders) == ""
    folders.secret.parent.mkdir()
    folders.secret.write_bytes(b"caf\xe9\n")
    secret = read_secret(folders)
    with serving(lambda *_: (200, {})) as port:
        assert web.answers(f"http://127.0.0.1:{port}/", authorization=web.bearer(secret)) is None  # and no traceback
