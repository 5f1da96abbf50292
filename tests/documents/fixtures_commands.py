"""The commands in the documents, and what the tests do with each of them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.artifacts.paths import PROJECT

DOCUMENTS = [
    *(PROJECT / "docs" / f"{name}.md" for name in ("quickstart", "rerun-masks", "your-data", "operate")),
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "SECURITY.md",
]
"""In the order in which a reader meets them; all other documents follow."""
PROGRAMS = re.compile(
    r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?"
    r"(?:agevlm|make|prefect|python|ray|hf|tensorboard|source|eval|export|cp|git|curl|pip|uv|docker|kubectl|psql"
    r"|promtool|pre-commit|sed|ssh|cat|sudo|apt-get|wc)(?=\s|$)"
)
Where = Literal["here", "stack", "parsed"]


@dataclass(frozen=True)
class Command:
    """A command of a document."""

    document: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words of its first program, without its settings of variables."""
        words = shlex.split(self.text.split(" | ")[0])
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        return [words[0].removeprefix(".venv/bin/"), *words[1:]]


@dataclass(frozen=True)
class Rule:
    """The treatment of the commands that match."""

    pattern: str
    where: Where
    reason: str = ""
    """Why a command is parsed and not run."""


LONG = "it takes minutes to hours; the same deployment runs in the other commands"
RULES = [
    # -- settings of `agevlm up`: they need another server, so they come before `agevlm up`
    Rule(r"AGEVLM_PREFECT_DATABASE_URL=\S+ agevlm up", "parsed", "it needs PostgreSQL: test_postgres_system.py"),
    Rule(r"AGEVLM_WEBHOOK_URL=\S+ agevlm up", "parsed", "it needs a server that is called: test_automations.py"),
    # -- run in this process, without a stack
    Rule(r"agevlm plan (RECIPE|my-paper\.yaml)", "parsed", "it stands for a recipe of the reader's"),
    Rule(r"agevlm (plan|recipes)\b", "here"),
    Rule(r"cp flows/recipes/\w+\.yaml \S+", "here"),
    Rule(r"sed '\S+' prefect.yaml > /tmp/\w+\.yaml", "here"),
    # -- run on one stack, in this order
    Rule(r"agevlm demo --until inventory --limit 8", "stack"),
    Rule(r"agevlm (status|artifacts|events|env|show|lineage|verify|down)\b", "stack"),
    Rule(r"agevlm up", "stack"),
    Rule(r'eval "\$\(agevlm env\)"', "stack"),
    Rule(r"agevlm run mask-generation/pretrain -p limit=16 -p kind=truth( -p min_area=\S+)? --watch", "stack"),
    Rule(r"agevlm (compare|gates|diff) MASKS", "stack"),
    Rule(r"agevlm tag masks/latest good-masks", "stack"),
    Rule(r"agevlm export good-masks FOLDER", "stack"),
    Rule(r"agevlm gc$", "stack"),
    Rule(
        r"agevlm run agevlm/full-recipe (-p recipe=my-recipe.yaml )?-p until=inventory(-pretrain)? -p limit=8", "stack"
    ),
    Rule(r"prefect flow-run (ls|cancel RUN_ID)", "stack"),
    Rule(r"ray job list", "stack"),
    # -- only parsed
    Rule(r"agevlm run .*recipe=(my-)?paper", "parsed", "it needs 8 GPUs and the paper's data and weights"),
    Rule(r"agevlm run ", "parsed", LONG),
    Rule(r"prefect deployment run ", "parsed", LONG),
    Rule(
        r"agevlm (ask|export|check-alignment|report)\b",
        "parsed",
        "a trained student; tests/flows/cli run them on a tiny one",
    ),
    Rule(r"agevlm (tag|diff) ID ", "parsed", "the same commands run with artifacts of docs/artifacts.md"),
    Rule(r"agevlm stages", "parsed", "it imports torch; tests/flows/cli run it"),
    Rule(r"agevlm calibrate ", "parsed", "it measures this machine for a minute; tests/pipeline/plan/costs run it"),
    Rule(r"make [a-z-]+", "parsed", "the tests are started by one of them"),
    Rule(r"python -m ", "parsed", "benchmarks and notes about the sources, which have tests of their own"),
    Rule(r"hf ", "parsed", "it downloads terabytes from the model hub"),
    Rule(r"tensorboard --logdir ", "parsed", "it serves until it is ended"),
    Rule(r"prefect (work-pool|work-queue|--no-prompt|worker) ", "parsed", "flows/run/test_outages_system.py runs such"),
    Rule(r"pip install prefect-\w+", "parsed", "it downloads a package that runs here do not need"),
    Rule(r"(sudo|apt-get) ", "parsed", "it changes the machine; test_postgres_system.py makes such a database"),
    Rule(r"(ssh|wc) ", "parsed", "it needs another machine, or the data sets"),
    Rule(r"source \.venv/bin/activate", "parsed", "it changes the reader's shell"),
    Rule(r"export [A-Z_]+=", "parsed", "it changes the reader's shell"),
]


def rule_of(command: Command) -> Rule | None:
    """The first rule that matches, or None."""
    text = shlex.join(command.words) if command.words[0] not in ("eval",) else command.text
    plain = command.text.removeprefix(".venv/bin/")
    return next((rule for rule in RULES if re.match(rule.pattern, plain) or re.match(rule.pattern, text)), None)


def documents() -> list[Path]:
    """Every document with commands: Markdown files, and recipes with commands in their comments."""
    others = [*sorted((PROJECT / "docs").glob("*.md")), *sorted((PROJECT / "flows" / "recipes").glob("*.yaml"))]
    return list(dict.fromkeys([*DOCUMENTS, *others]))


def all_commands() -> list[Command]:
    """The commands of all documents, in the order of reading."""
    return [Command(path.name, text) for path in documents() for text in commands_in(path)]


def commands_in(path: Path) -> Iterator[str]:
    """The commands of a document: every line of a block of kind sh, and lines of indented blocks that call a program.

    A line that ends in a backslash goes on in the next one; comments are left out.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    if path.suffix == ".yaml":
        lines = [re.sub(r"^# ?", "    ", line) for line in lines if line.startswith("#")]
    fence: str | None = None
    waiting = ""
    for line in lines:
        opened = re.match(r" *```(\w*)", line)
        if opened:
            fence = opened[1] if fence is None else None
            continue
        is_command = fence == "sh" if fence is not None else line.startswith("    ") and PROGRAMS.match(line.strip())
        if not (is_command or waiting) or not line.strip():
            continue
        text = f"{waiting}{line.strip()}".removeprefix("$ ")
        if text.endswith("\\"):
            waiting = f"{text[:-1].rstrip()} "
            continue
        waiting = ""
        plain = _without_comment(text)
        if plain:
            yield plain


def _without_comment(text: str) -> str:
    return re.sub(r"(^|\s+)# .*$", "", text).strip()
