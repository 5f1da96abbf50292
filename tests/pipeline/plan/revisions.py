"""The record of each step's sources: a change of code needs a new revision, or must be declared neutral.

`python -m tests.pipeline.plan.revisions` shows what changed; `accept` records steps whose revision was bumped, and
`accept --neutral STEP` those whose change cannot change a result. Docstrings, comments and format do not count.
"""

import argparse
import ast
import hashlib
import json
import sys
from functools import cache
from pathlib import Path

from pipeline.plan.step_table import STEPS, Step
from tests.pipeline.plan.source_hash import meaning

ROOT = Path(__file__).resolve().parents[3]
RECORD = Path(__file__).with_name("revisions.json")
SUFFIXES = (".py", ".jinja", ".css")
FRAME = (
    # Code around the steps that does not change their results: storage, Ray, plans, the runner.
    "pipeline/artifacts/",
    "pipeline/compute/",
    "pipeline/plan/",
    "pipeline/steps/context.py",
    "pipeline/steps/input_check.py",
    "pipeline/steps/reject_limit.py",
    "pipeline/steps/runner.py",
    "model/errors.py",
    # Parameter models: the values are part of the id.
    "pipeline/config.py",
    "pipeline/evaluation/config.py",
    "pipeline/masks/config.py",
    "pipeline/masks/teachers/interface.py",
    "pipeline/packing/config.py",
    "pipeline/training/config.py",
    "pipeline/training/execution.py",
    # The miniature world's code: its checksum is in the inventory's id.
    "model/miniature/language.py",
    "model/miniature/world.py",
)


_meaning = cache(meaning)


def source_files(step: Step) -> list[Path]:
    """The files that a step declares, templates and style sheets among them."""
    files: list[Path] = []
    for name in step.sources:
        path = ROOT / name
        files += sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES) if path.is_dir() else [path]
    return files


def sources_hash(step: Step) -> str:
    """Digest of the meaning of a step's source files: docstrings and comments do not count."""
    hasher = hashlib.sha256()
    for file in source_files(step):
        text = file.read_text(encoding="utf-8")
        hasher.update(f"{file.relative_to(ROOT).as_posix()}\0".encode())
        hasher.update((_meaning(text) if file.suffix == ".py" else text).encode())
    return hasher.hexdigest()


def _module_file(name: str) -> Path | None:
    path = ROOT / name.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imported(file: Path) -> set[Path]:
    """The project's files that a file imports, also inside functions."""
    found: set[Path | None] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {_module_file(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {_module_file(base), *(_module_file(f"{base}.{alias.name}") for alias in node.names)}
    return {path for path in found if path is not None}


def closure(step: Step) -> set[Path]:
    """Every file of the project that a step's code imports, directly or not."""
    seen: set[Path] = set()
    entry = _module_file(step.entry.split(":")[0])
    assert entry is not None
    ahead = [entry]
    while ahead:
        file = ahead.pop()
        if file not in seen and not file.relative_to(ROOT).as_posix().startswith(FRAME):
            seen.add(file)
            ahead += _imported(file)
    return seen


def unlisted(step: Step) -> list[str]:
    """Files that a step imports but does not declare, and that are not in FRAME."""
    missing = {file for file in closure(step) if file.name != "__init__.py"} - set(source_files(step))
    return sorted(file.relative_to(ROOT).as_posix() for file in missing)


def current() -> dict[str, dict[str, object]]:
    """Revision and source hash of every step in the current code."""
    return {name: {"revision": step.revision, "sources": sources_hash(step)} for name, step in STEPS.items()}


def recorded() -> dict[str, dict[str, object]]:
    """Revision and source hash of every step as they were last accepted."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def undeclared() -> list[str]:
    """Steps whose sources changed without a new revision, and steps whose record is out of date."""
    old, new = recorded(), current()
    return [name for name in new if new[name] != old.get(name)]


def accept(neutral: list[str]) -> None:
    """Record the current state. Exits with an error if sources changed without a new revision and are not `neutral`."""
    old, new = recorded(), current()
    silent = [n for n in undeclared() if n in old and old[n]["revision"] == new[n]["revision"] and n not in neutral]
    if silent:
        sys.exit(
            f"the sources of {', '.join(silent)} changed but not the revision: bump it in pipeline/plan/step_table.py, "
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
