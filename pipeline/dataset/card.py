"""The card of an exported data set: YAML that `datasets.load_dataset` reads, and what is known of it, for people."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq

from pipeline.artifacts.difference import flat
from pipeline.artifacts.lineage import lineage
from pipeline.artifacts.spec import short
from pipeline.artifacts.staging import REJECT_PARTS, REJECTS
from pipeline.artifacts.store import Artifact
from pipeline.dataset.kinds import Kind

DEFAULT = "default"
"""Name of the table whose parts lie beside the card."""
LONGEST = 200
"""Characters of a parameter's value in the card."""
PARTS = re.compile(r"part-[0-9]+-of-[0-9]+\.parquet")
MARKUP = re.compile(r"[\\`*\[\]|]|(?<!\w)_|_(?!\w)")
"""Characters that begin or end something in Markdown. HTML is made harmless apart."""
TEACHERS = {"florence": "Florence-2", "sam": "SAM"}
"""Parameters that are weights of the teachers, and their names."""


@dataclass(frozen=True)
class Config:
    """One table of the data set: a `config` in the words of `datasets`."""

    name: str
    files: list[str]
    """Its files, or a pattern of them, relative to the card."""
    default: bool
    columns: tuple[tuple[str, str], ...]


def configs(artifact: Artifact, folder: Path, kind: Kind) -> list[Config]:
    """The tables with rows of an artifact that was copied to `folder`, the main one first.

    Rejected rows are a table of their own. Empty files are left out, because `datasets` refuses them.
    """
    tables: dict[str, list[str]] = {}
    for file in artifact.matching(suffix=".parquet"):
        above, _, name = file.rpartition("/")
        if PARTS.fullmatch(name):
            tables.setdefault(above or DEFAULT, []).append(file)
        elif file == REJECTS:
            tables[REJECT_PARTS] = [file]  # it has the rows of the parts
        elif not above:
            tables[name.removesuffix(".parquet")] = [file]
    main = kind.main.removesuffix(".parquet") or DEFAULT
    found = []
    for name, files in sorted(tables.items(), key=lambda item: (item[0] != main, item[0])):
        full = [file for file in files if pq.read_metadata(folder / file).num_rows]
        if not full:
            continue
        parts = PARTS.fullmatch(full[0].rpartition("/")[2])
        pattern = ("" if name == DEFAULT else f"{name}/") + "part-*.parquet"
        columns = tuple((field.name, str(field.type)) for field in pq.read_schema(folder / full[0]))
        found.append(Config(name, [pattern] if parts and full == files else full, name == main, columns))
    return found


def write_card(artifact: Artifact, kind: Kind, tables: list[Config]) -> str:
    """The text of README.md."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.dataset", "."), undefined=jinja2.StrictUndefined, autoescape=False
    )
    environment.filters |= {"cell": _cell, "code": _code}
    manifest = artifact.manifest
    origins, teachers = _origins(artifact)
    return (
        environment.get_template("card.md.jinja").render(
            title=f"{kind.title}: {artifact.ref.name}",
            ref=artifact.ref,
            manifest=manifest,
            kind=kind,
            configs=tables,
            parameters=[(name, _text(value)) for name, value in flat(manifest.spec.params).items()],
            origins=origins,
            teachers=teachers,
        )
        + "\n"
    )


def _origins(artifact: Artifact) -> tuple[list[str], str]:
    """The raw data in words, and the teachers."""
    origins: dict[str, None] = {}
    teachers: dict[str, None] = {}
    for node in lineage(artifact.store, artifact):
        params: Mapping[str, Any] = {} if node.artifact is None else node.artifact.manifest.spec.params
        source = params.get("source")
        if isinstance(source, dict) and "fingerprint" in params:
            origins[
                f"raw data '{node.ref.name}' ({source.get('kind')}, checksum {short(str(params['fingerprint']))})"
            ] = None
        for role, title in TEACHERS.items():
            if params.get(role):
                teachers[f"{title} ({_text(params[role])[:40]})"] = None
    return [_cell(origin) for origin in origins], _cell(" and ".join(teachers))


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table or a line of its own: names and values come from recipes and data."""
    plain = "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
    escaped = MARKUP.sub(r"\\\g<0>", plain).replace("&", "&amp;").replace("<", "&lt;")
    return " ".join(escaped.split())


def _code(text: object) -> str:
    """Text between backticks."""
    return str(text).replace("`", "'")
