"""The difference of two artifacts, from their manifests, their JSON results and the schemas of their Parquet files."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from json import dumps
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.errors import ArtifactError
from pipeline.artifacts.manifest import ASIDE
from pipeline.artifacts.spec import parsed, short
from pipeline.artifacts.store import Artifact

SCORES = "scores.json"
"""Result of an evaluation, with one entry per benchmark and metric."""
READ_BYTES = 4 << 20
"""Largest JSON file that is compared value by value."""
READERS = 8
PARAMETERS, INPUTS, UPSTREAM, ROWS, STATISTICS, SCHEMA, FILES = (
    "parameters",
    "inputs",
    "parameters of inputs",
    "rows",
    "statistics and metrics",
    "schema",
    "files",
)


@dataclass(frozen=True)
class Change:
    """One value that differs; None where an artifact does not have it."""

    section: str
    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Difference:
    """Everything that differs between two artifacts."""

    before: Artifact
    after: Artifact
    same_content: bool
    """True if spec, attempt, files, counts and statistics are the same."""
    same_files: bool
    """True if the data files are the same, apart from those that describe the run."""
    changes: tuple[Change, ...]


def difference(before: Artifact, after: Artifact) -> Difference:
    """Compare two artifacts, of one kind or of two. Raises ArtifactError if a file of one cannot be read."""
    one, two = before.manifest, after.manifest
    files = [_files(before), _files(after)]
    changes = [
        *_changes(PARAMETERS, _step(before) | flat(one.spec.params), _step(after) | flat(two.spec.params)),
        *_changes(INPUTS, _inputs(before), _inputs(after)),
        *_upstream(before, after, ""),
        *_changes(ROWS, _rows(before), _rows(after)),
        *_changes(STATISTICS, _results(before), _results(after)),
        *_changes(SCHEMA, *_schemas(before, after)),
        *_changes(FILES, *files),
    ]
    same = one.content_sha256 == two.content_sha256
    return Difference(before, after, same, files[0] == files[1], tuple(changes))


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with names as 'outer.inner'."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            found.update(flat(item, f"{prefix}{name}."))
        else:
            found[prefix + name] = item
    return found


def _changes(section: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if before is None and after is None and (name in old) != (name in new):
            # A null makes another id than no value.
            yield Change(section, name, *("null" if name in values else None for values in (old, new)))
        # Not '!=': 1, 1.0 and true make different ids, and no NaN is equal to another.
        elif dumps(before, sort_keys=True) != dumps(after, sort_keys=True):
            yield Change(section, name, before, after)


def _step(artifact: Artifact) -> dict[str, Any]:
    spec = artifact.manifest.spec
    return {"(step)": spec.step, "(revision)": spec.revision, "(attempt)": artifact.manifest.attempt}


def _inputs(artifact: Artifact) -> dict[str, str]:
    return {name: str(parent.ref) for name, parent in sorted(artifact.manifest.parents.items())}


def _upstream(
    before: Artifact, after: Artifact, path: str, seen: set[tuple[str, str]] | None = None
) -> Iterator[Change]:
    """The parameters of inputs that differ: the cause of another id. An input that is gone or damaged says nothing."""
    seen = set() if seen is None else seen
    for name, one in sorted(before.manifest.parents.items()):
        two = after.manifest.parents.get(name)
        if two is None or one.ref.id == two.ref.id or (one.ref.id, two.ref.id) in seen:
            continue
        seen.add((one.ref.id, two.ref.id))
        try:
            first, second = before.store.get(one.ref), after.store.get(two.ref)
        except ArtifactError:
            continue
        if first is None or second is None:
            continue
        old, new = (_step(a) | flat(a.manifest.spec.params) for a in (first, second))
        yield from _changes(
            UPSTREAM,
            {f"{path}{name}: {k}": v for k, v in old.items()},
            {f"{path}{name}: {k}": v for k, v in new.items()},
        )
        yield from _upstream(first, second, f"{path}{name}/", seen)


def _rows(artifact: Artifact) -> dict[str, Any]:
    counts = artifact.manifest.counts
    rejected = {f"rejected: {reason}": number for reason, number in sorted(counts.rejected.items())}
    return {
        "unit": counts.unit,
        "in": counts.rows_in,
        "out": counts.rows_out,
        **rejected,
        "not selected": counts.not_selected,
    }


def _results(artifact: Artifact) -> dict[str, Any]:
    """Statistics of the manifest, and the scores of an evaluation."""
    found = flat(artifact.manifest.statistics)
    entry = next((entry for entry in artifact.manifest.files if entry.path == SCORES), None)
    if entry is None or entry.size > READ_BYTES:
        return found
    try:
        with artifact.open(SCORES) as stream:
            scores = parsed(stream.read()).get("scores", [])
        for score in scores:
            name = f"{score['benchmark']}.{score['metric']}"
            found |= {f"{name}.{key}": score[key] for key in ("value", "low", "high", "n") if key in score}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ArtifactError(
            f"{artifact.ref}: {SCORES} cannot be read ({error}); 'agevlm verify {short(artifact.ref.id)}' says more"
        ) from error
    return found


def _files(artifact: Artifact) -> dict[str, str]:
    entries = artifact.manifest.files
    return {e.path: f"{e.size} bytes, sha256 {short(e.sha256)}" for e in entries if not e.path.startswith(ASIDE)}


def _schemas(before: Artifact, after: Artifact) -> tuple[dict[str, str], dict[str, str]]:
    """Column -> type of the first Parquet file of each folder; the shards of a folder have one schema.

    The order of the columns is an entry too, if it differs. Files with equal checksums are not opened.
    """
    firsts = [_first_tables(artifact) for artifact in (before, after)]
    sums = [{e.path: e.sha256 for e in artifact.manifest.files} for artifact in (before, after)]
    wanted = [
        [
            (table, file)
            for table, file in one.items()
            if sums[0].get(firsts[0].get(table, "")) != sums[1].get(firsts[1].get(table, ""))
        ]
        for one in firsts
    ]
    found: list[dict[str, str]] = []
    with ThreadPoolExecutor(READERS) as pool:
        for artifact, some in zip((before, after), wanted, strict=True):
            schemas = pool.map(lambda one, artifact=artifact: (one[0], _schema(artifact, one[1])), some)
            found.append({f"{table}{field.name}": _type(field) for table, schema in schemas for field in schema})
    orders = [[name for name in one if name in other] for one, other in (found, found[::-1])]
    if orders[0] != orders[1]:
        for one, order in zip(found, orders, strict=True):
            one["(order)"] = ", ".join(order)
    return found[0], found[1]


def _type(field: pa.Field) -> str:
    return str(field.type) if field.nullable else f"{field.type} not null"


def _first_tables(artifact: Artifact) -> dict[str, str]:
    """Table -> its first Parquet file. The parts of a folder are one table; another file is a table of its own."""
    tables: dict[str, str] = {}
    for file in artifact.matching(suffix=".parquet"):
        folder, _, name = file.rpartition("/")
        tables.setdefault(
            f"{folder}/" if name.startswith("part-") and folder else "" if name.startswith("part-") else f"{file}: ",
            file,
        )
    return tables


def _schema(artifact: Artifact, file: str) -> pa.Schema:
    try:
        with artifact.open(file) as stream:
            return pq.read_schema(stream)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{artifact.ref}: {file} cannot be read ({error}); 'agevlm verify {short(artifact.ref.id)}' says more"
        ) from error
