"""The secret of a home: one random text that the servers of its stack ask for.

Prefect's server and Ray's are started with it, and clients get it through the environment or by the name of its file.
It never stands in a command line, which every user of the machine can read.
"""

import os
import secrets
import shlex
import stat
from pathlib import Path

from infra.local.folders import Folders
from infra.local.stack_file import StackError

LEAST_LENGTH = 32
"""Characters of the shortest secret that is accepted; one that is made here has 64."""
REMEDY = "end the stack with 'agevlm down', remove it, and 'agevlm up' makes a new one"


def make_secret(path: Path, known: str = "") -> bool:
    """Write the secret, unless it exists. Only its owner can read it. Returns True if this call wrote it.

    The file appears whole: another process reads the whole secret or none.

    Args:
        path: of the secret's file.
        known: the secret that living servers ask for already, where its file was lost; '' to make a new one.

    Raises StackError if what is there is not a file of this user with a secret.
    """
    made = False
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(known or secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
            made = True
        except FileExistsError:  # another process was first: its secret is the one
            made = False
        finally:
            draft.unlink(missing_ok=True)
    check_secret(path)
    return made


def check_secret(path: Path) -> None:
    """Raise StackError unless this is a file of this user with a usable secret; take it from other users."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "no file"
        raise StackError(f"the secret {path} is {kind}; {REMEDY}")
    if found.st_uid != os.getuid():
        raise StackError(f"the secret {path} belongs to the user {found.st_uid}; {REMEDY}")
    path.chmod(0o600)
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if len(text) < LEAST_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise StackError(
            f"the secret {path} is damaged: it must be one word of at least {LEAST_LENGTH} ASCII characters; {REMEDY}"
        )


def read_secret(folders: Folders) -> str:
    """The secret of this home, or '' if its file is gone; the servers then refuse every request."""
    try:
        return folders.secret.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""


def secret_hint(folders: Folders) -> str:
    """A few words on how to read the secret that the servers' pages ask for; never the secret itself."""
    path = shlex.quote(str(folders.secret))
    if not folders.secret.exists():
        return f"ask for a secret, but {path} is gone: 'agevlm up' writes it again"
    return f"ask once for the secret: cat {path}"
