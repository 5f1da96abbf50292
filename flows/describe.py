"""Artifacts in words, for the terminal: one of them in full, and a lineage as a tree."""

import json
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from flows.terminal import duration, rows_of
from pipeline.artifacts.lineage import lineage
from pipeline.artifacts.manifest import Manifest, plural
from pipeline.artifacts.spec import short
from pipeline.artifacts.staging import REJECTS
from pipeline.artifacts.store import Artifact, ArtifactStore

FILES_SHOWN = 12
OUTSIDE = {
    "fingerprint": "raw data",
    "florence": "Florence-2's weights",
    "sam": "SAM's weights",
    "text": "language backbone",
    "vision": "vision backbone",
    "tokenizer": "tokenizer",
}
"""Parameters that are checksums of things from outside: where a lineage ends."""


def size_text(size: int) -> str:
    """Bytes for people."""
    value, unit = float(size), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if value < 1024 or unit == "TB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def description(artifact: Artifact, rejects: int) -> Iterator[RenderableType]:
    """Everything about an artifact, part by part; `rejects` rows of those that were rejected."""
    manifest = artifact.manifest
    yield Text(f"{manifest.ref.kind}/{manifest.ref.name}", "bold")
    yield _pairs(_facts(artifact))
    yield _headed("parameters", _pairs(_flat(manifest.spec.params)))
    if manifest.parents:
        yield _headed("inputs", _pairs({name: str(parent.ref) for name, parent in sorted(manifest.parents.items())}))
    if manifest.statistics:
        yield _headed("statistics", _pairs(_flat(manifest.statistics)))
    if REJECTS in artifact.files and manifest.counts.total_rejected and rejects > 0:
        yield _headed(f"rejected rows (the first {rejects})", _rejects(artifact, rejects))
    yield _headed(f"files ({len(manifest.files)})", _files(manifest))


def _facts(artifact: Artifact) -> dict[str, str]:
    manifest = artifact.manifest
    counts, provenance = manifest.counts, manifest.provenance
    outcome = [f"{counts.rows_in} in", f"{counts.rows_out} out"]
    if counts.total_rejected:
        outcome.append(rows_of(counts.rejected))
    if counts.not_selected:
        outcome.append(f"{counts.not_selected} not selected")
    versions = ", ".join(f"{name} {number}" for name, number in sorted(provenance.versions.items()))
    return {
        "id": manifest.ref.id,
        "step": f"{manifest.spec.step}, revision {manifest.spec.revision}, attempt {manifest.attempt}",
        plural(counts.unit): ", ".join(outcome),
        "size": f"{size_text(manifest.bytes)} in {len(manifest.files)} files",
        "folder": artifact.path(),
        "content": f"sha256 {manifest.content_sha256}",
        "manifest": f"sha256 {manifest.sha256}",
        "made": f"{provenance.started} in {duration(provenance.seconds)} on {provenance.host} ({provenance.device})",
        "job": provenance.job or "-",
        "commit": provenance.git_commit or "-",
        "versions": versions,
    }


def _pairs(values: dict[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for name, value in values.items():
        table.add_row(Text(name, "cyan"), Text(value, overflow="fold"))
    return table


def _headed(title: str, content: RenderableType) -> RenderableType:
    table = Table(box=None, show_header=True, pad_edge=False, title=None)
    table.add_column(Text(f"\n{title}", "bold"))
    table.add_row(content)
    return table


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat.update(_flat(item, f"{prefix}{name}.") or {prefix + name: "{}"})
        else:
            text = item if isinstance(item, str) else json.dumps(item)
            flat[prefix + name] = text if len(text) <= 300 else f"{text[:297]}..."
    return flat


def _files(manifest: Manifest) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for entry in manifest.files[:FILES_SHOWN]:
        table.add_row(entry.path, size_text(entry.size), f"sha256 {short(entry.sha256)}")
    if len(manifest.files) > FILES_SHOWN:
        table.add_row(f"and {len(manifest.files) - FILES_SHOWN} more", "", "")
    return table


def _rejects(artifact: Artifact, count: int) -> Table:
    import pyarrow.parquet as pq

    with artifact.open(REJECTS) as stream:
        rows = pq.read_table(stream).slice(0, count).to_pylist()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for row in rows:
        table.add_row(str(row["id"]), str(row["reason"]), Text(str(row["detail"]), overflow="fold"))
    return table


def lineage_tree(store: ArtifactStore, artifact: Artifact) -> Tree:
    """An artifact's ancestors as a tree. What several artifacts share is drawn in full once."""
    tree: Tree | None = None
    path: list[Tree] = []
    drawn: set[str] = set()
    hidden: int | None = None
    """Depth below which nodes are skipped, for they were drawn already."""
    for node in lineage(store, artifact):
        if hidden is not None and node.depth > hidden:
            continue
        hidden = None
        label = Text(f"{node.input_name}: " if node.input_name else "", "dim")
        label.append(f"{node.ref.kind}/{node.ref.name} ", "bold")
        label.append(short(node.ref.id), "cyan")
        if node.trouble:
            label.append(f"  {node.trouble}", "bold red")
        if tree is None:
            branch = tree = Tree(label)
        else:
            branch = path[node.depth - 1].add(label)
        path[node.depth :] = [branch]
        if node.artifact is None or node.trouble:
            continue
        if node.ref.id in drawn:
            label.append("  (above)", "dim")
            hidden = node.depth
            continue
        drawn.add(node.ref.id)
        label.append(f"  {_outcome(node.artifact)}", "dim")
        for name, what in OUTSIDE.items():
            value = node.artifact.manifest.spec.params.get(name)
            if isinstance(value, str):
                branch.add(Text(f"{what}: {_origin(node.artifact, name, value)}", "green"))
    assert tree is not None  # lineage() begins with the artifact itself
    return tree


def _outcome(artifact: Artifact) -> str:
    counts = artifact.manifest.counts
    return f"{counts.rows_in} -> {counts.rows_out} {plural(counts.unit)}, {artifact.manifest.provenance.started[:16]}"


def _origin(artifact: Artifact, name: str, value: str) -> str:
    checksum = value if value.startswith("hub:") else f"fingerprint {short(value)}"
    source = artifact.manifest.spec.params.get("source")
    if name != "fingerprint" or not isinstance(source, dict):
        return checksum
    return f"{checksum} ({', '.join(f'{k} {v}' for k, v in source.items() if v is not None)})"
