"""docs/troubleshooting.md quotes messages that the code really has."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pipeline.artifacts.paths import PROJECT

TEXT = (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
FOLDERS = ("flows", "infra", "pipeline", "model")
HOLE = "\0"
SHORTEST = 4


def quoted() -> list[str]:
    """The messages in the column 'symptom': code spans with a blank that are no command."""
    symptoms = [line.split(" | ")[0] for line in TEXT.split("\n") if line.startswith("| ") and "---" not in line]
    spans = [span for symptom in symptoms for span in re.findall(r"`([^`]+)`", symptom)]
    return [span for span in spans if " " in span and not span.startswith("agevlm")]


@cache
def literals() -> tuple[str, ...]:
    """The texts in each file of the sources; the values in f-strings are holes."""
    files = [path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py")]
    return tuple("\n".join(_texts(ast.parse(path.read_text(encoding="utf-8")))) for path in files)


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else HOLE for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def known(message: str) -> bool:
    """True if all fixed parts of a message stand in the texts of one file."""
    parts = [part.strip() for part in re.split(r"\.\.\.|'x'|\b[NM]\b|\bNAME\b|\brecords\b|\bCPUs\b|, ", message)]
    fixed = [part for part in parts if len(part) >= SHORTEST]
    assert fixed, message
    return any(all(part in text for part in fixed) for text in literals())


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_exists(message: str) -> None:
    assert known(message)


def test_a_message_that_does_not_exist_is_noticed() -> None:
    assert not known("the local stack in ... has caught fire")
    assert len(quoted()) > 20


PAGES = [*sorted((PROJECT / "docs").glob("*.md")), *sorted(PROJECT.glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: Path(path).name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: Path(path).name)
def test_files_that_documents_name_exist_and_lines_are_short(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:flows|infra|pipeline|model|tests|scripts)/[\w/.-]+)`", text)
    made = {"pipeline/sources/tsv.py"}  # by the reader of docs/add-a-source.md
    assert [name for name in named if not (PROJECT / name).exists() and name not in made] == []
    assert [line for line in text.split("\n") if len(line) > 120 and not line.startswith("|")] == []
