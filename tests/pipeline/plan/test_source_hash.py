"""The text of a source file's meaning: what counts, what does not, and that every Python version gives the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.plan import source_hash
from tests.pipeline.plan.revisions import ROOT
from tests.pipeline.plan.source_hash import meaning

# Syntax whose tree changed between versions, or that could: empty lists, type parameters, f-strings, constants.
DIFFICULT = """
class A(B, metaclass=C):
    x: int
    def f(self, /, a, *args, b=None, **kwargs) -> None: return None
    async def g(self): return ..., (), [], {}, -1, 1e400, 2j, True, b"x", u"x"
def h(): pass
match x:
    case [1, *rest] | {"k": None, **other}: pass
    case A(b=1) as c if c: pass
try: pass
except* (E, F) as e: raise
"a" f"{x!r:>{w}}{y=} {{}} {f'{z}'}" "b"
lambda *, k: (yield)
"""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(a):\n    return a + 1\n", '"""Doc."""\ndef f( a ):\n    """Doc."""\n    return a+1  # why\n'),
        ("x = 'a'\n", 'x = "a"\n'),
        ("class A:\n    x = 1\n", 'class A:\n    """Doc."""\n\n    x = 1\n'),
    ],
)
def test_comments_docstrings_and_format_do_not_count(one: str, other: str) -> None:
    assert meaning(one) == meaning(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(a):\n    return a + 1\n", "def f(a):\n    return a + 2\n"),
        ("f()\n", "f(None)\n"),
        ("x = None\n", "x = ()\n"),
        ("return_ = []\n", "return_ = [None]\n"),
        ("def f(a=None): ...\n", "def f(a): ...\n"),
        ("def f():\n    return\n", "def f():\n    return None\n"),
        ("x[:1]\n", "x[1:]\n"),
        ("f(**a)\n", "f(*a)\n"),
        ("def f(a, /): ...\n", "def f(a): ...\n"),
        ("def f(a, *, b): ...\n", "def f(a, b): ...\n"),
        ("f'{x!r}'\n", "f'{x!s}'\n"),
        ("f'{x}'\n", "f'{x:}'\n"),
        ("x = '1'\n", "x = 1\n"),
        ("x = 1\n", "x = True\n"),
        ("{**a}\n", "{a: a}\n"),
        ("from . import a\n", "from .. import a\n"),
    ],
)
def test_code_that_differs_has_another_text(one: str, other: str) -> None:
    assert meaning(one) != meaning(other)


def interpreter(version: str) -> str | None:
    """A Python of this version, on the PATH or among pyenv's; None if there is none that runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *map(str, pyenv.glob(f"{version}.*/bin/python"))]
    runs = (p for p in found if p and not subprocess.run([p, "-c", ""], capture_output=True).returncode)
    return next(runs, None)


@pytest.mark.parametrize("version", [f"3.{minor}" for minor in range(11, 16)])
def test_another_python_gives_the_same_digests(version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not installed")
    difficult = tmp_path / "difficult.py"
    difficult.write_text(DIFFICULT)
    files = [str(difficult), *map(str, sorted(ROOT.glob("model/**/*.py")))]

    def digests(program: str) -> str:
        command = [program, source_hash.__file__, *files]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert digests(python) == digests(sys.executable)
