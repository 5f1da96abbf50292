"""The record of each step's sources: a change of code is a new revision, or is declared neutral, never forgotten.

`python -m tests.pipeline.steps.revisions` shows what changed; `accept` records steps whose revision was bumped, and
`accept --neutral STEP` those whose change cannot change a result. Docstrings, comments and format do not count.
"""

import argparse
import ast
import hashlib
import json
import sys
from functools import cache
from pathlib import Path

from pipeline.steps.table import STEPS, Step

ROOT = Path(__file__).resolve().parents[3]
RECORD = Path(__file__).with_name("revisions.json")


@cache
def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)


def sources_hash(step: Step) -> str:
    """Digest of the meaning of a step's source files (pipeline/config.py files count; docstrings do not)."""
    hasher = hashlib.sha256()
    for name in step.sources:
        path = ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            hasher.update(f"{file.relative_to(ROOT).as_posix()}\0".encode())
            hasher.update(_without_docstrings(file.read_text(encoding="utf-8")).encode())
    return hasher.hexdigest()


def current() -> dict[str, dict[str, object]]:
    """Revision and source hash of every step as the code stands."""
    return {name: {"revision": step.revision, "sources": sources_hash(step)} for name, step in STEPS.items()}


def recorded() -> dict[str, dict[str, object]]:
    """Revision and source hash of every step as they were last accepted."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def undeclared() -> list[str]:
    """Steps whose sources changed without a new revision, and steps whose record is out of date."""
    old, new = recorded(), current()
    return [name for name in new if new[name] != old.get(name)]


def accept(neutral: list[str]) -> None:
    """Record the present state. Refuses changed sources under an unchanged revision unless declared neutral."""
    old, new = recorded(), current()
    silent = [n for n in undeclared() if n in old and old[n]["revision"] == new[n]["revision"] and n not in neutral]
    if silent:
        sys.exit(
            f"the sources of {', '.join(silent)} changed but not the revision: bump it in pipeline/steps/table.py, "
            f"or, if no result can change, say --neutral {' '.join(silent)}"
        )
    RECORD.write_text(json.dumps(new, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs="?", choices=["show", "accept"], default="show")
    parser.add_argument("--neutral", nargs="*", default=[], metavar="STEP", help="steps whose results cannot change")
    arguments = parser.parse_args()
    if arguments.command == "accept":
        accept(arguments.neutral)
    else:
        print("\n".join(undeclared()) or "nothing changed")
