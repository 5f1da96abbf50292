"""Artifacts on the terminal: one artifact in full, a lineage as a tree, and short paths."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from flows.cli.terminal import duration, rejects_text, size_text
from pipeline.artifacts.lineage import lineage
from pipeline.artifacts.manifest import Manifest, Provenance, plural
from pipeline.artifacts.spec import short
from pipeline.artifacts.staging import REJECT_PARTS, REJECTS
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.artifacts.tags import LATEST
from pipeline.artifacts.versions import library_versions, other_versions
from pipeline.plan.step_table import STEPS

FILES_SHOWN = 12
ORIGINS = {
    "fingerprint": "raw data",
    "florence": "Florence-2's weights",
    "sam": "SAM's weights",
    "text": "language backbone",
    "vision": "vision backbone",
    "tokenizer": "tokenizer",
}
"""Parameters that are checksums of raw data or of weights: leaves of a lineage."""


def short_path(file: str) -> str:
    """The path of an artifact's file by the link `latest` of its kind and name, if that leads to it; else `file`."""
    path = Path(file)  # STORE/KIND/NAME/ID/DATA/FILE
    link = path.parent.parent.parent / LATEST / path.name
    return str(link) if link.exists() and link.resolve() == path.resolve() else file


def artifact_details(artifact: Artifact, rejects: int) -> Iterator[RenderableType]:
    """Everything about an artifact, section by section, with up to `rejects` of its rejected rows."""
    manifest = artifact.manifest
    yield Text(f"{manifest.ref.kind}/{manifest.ref.name}", "bold")
    yield _pairs(_facts(artifact))
    yield _headed("parameters", _pairs(_flat(manifest.spec.params)))
    if manifest.parents:
        yield _headed("inputs", _pairs({name: str(parent.ref) for name, parent in sorted(manifest.parents.items())}))
    if manifest.statistics:
        yield _headed("statistics", _pairs(_flat(manifest.statistics)))
    if manifest.counts.total_rejected and rejects > 0:
        yield _headed(f"rejected rows (the first {rejects})", _rejects(artifact, rejects))
    yield _headed(f"files ({len(manifest.files)})", _files(manifest))


def _facts(artifact: Artifact) -> dict[str, str]:
    manifest = artifact.manifest
    counts, provenance = manifest.counts, manifest.provenance
    outcome = [f"{counts.rows_in} in", f"{counts.rows_out} out"]
    if counts.total_rejected:
        outcome.append(rejects_text(counts.rejected))
    if counts.not_selected:
        outcome.append(f"{counts.not_selected} not selected")
    versions = ", ".join(f"{name} {number}" for name, number in sorted(provenance.versions.items()))
    step = STEPS.get(manifest.spec.step)
    others = other_versions(provenance.versions, library_versions(), step.libraries if step else ())
    return {
        "id": manifest.ref.id,
        "step": f"{manifest.spec.step}, revision {manifest.spec.revision}, attempt {manifest.attempt}",
        plural(counts.unit): ", ".join(outcome),
        "size": f"{size_text(manifest.bytes)} in {len(manifest.files)} files",
        "folder": artifact.location(),
        "content": f"sha256 {manifest.content_sha256}",
        "manifest": f"sha256 {manifest.sha256}",
        "made": f"{provenance.started} in {duration(provenance.seconds)} on {provenance.host} ({provenance.device})",
        **_made_by(provenance),
        "commit": provenance.git_commit or "-",
        "versions": versions,
        **({"other now": f"{others} (of what decides its result)"} if others else {}),
    }


def _made_by(provenance: Provenance) -> dict[str, str]:
    """The Ray job and the flow run that made an artifact, with their pages."""
    origin = provenance.origin
    if origin is None:
        return {"job": provenance.job or "-"}
    page = f"  {origin.job_page}" if origin.job_page else ""
    deployment = f"  ({origin.deployment})" if origin.deployment else ""
    return {"job": f"{provenance.job or '-'}{page}", "flow run": f"{origin.run}{deployment}"}


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
        table.add_row(Text(entry.path), size_text(entry.size), f"sha256 {short(entry.sha256)}")
    if len(manifest.files) > FILES_SHOWN:
        table.add_row(f"and {len(manifest.files) - FILES_SHOWN} more", "", "")
    return table


def _rejects(artifact: Artifact, count: int) -> RenderableType:
    """The first rejected rows, from one table of all or from those of the shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, object]] = []
    for file in [REJECTS] if REJECTS in artifact.files else artifact.matching(f"{REJECT_PARTS}/", ".parquet"):
        try:
            with artifact.open(file) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(count - len(rows)):
                    rows += batch.to_pylist()
                    if len(rows) >= count:
                        break
        except (OSError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or error
            return Text(
                f"  {file} cannot be read ({reason}); 'agevlm verify {short(artifact.ref.id)}' says more", "red"
            )
        if len(rows) >= count:
            break
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for row in rows[:count]:
        table.add_row(Text(str(row["id"])), Text(str(row["reason"])), Text(str(row["detail"]), overflow="fold"))
    return table


def lineage_tree(store: ArtifactStore, artifact: Artifact) -> Tree:
    """An artifact's ancestors as a tree. An ancestor of several artifacts is drawn in full only once.

    `lineage` walks depth first and repeats such an ancestor. So `path` holds the branch at each depth of the present
    walk, and below an ancestor that was drawn before everything is skipped until the walk is back at its depth.
    """
    tree: Tree | None = None
    path: list[Tree] = []
    drawn: set[str] = set()
    hidden: int | None = None
    """Depth below which nodes are skipped because they were drawn already."""
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
        for name, origin in ORIGINS.items():
            value = node.artifact.manifest.spec.params.get(name)
            if isinstance(value, str):
                branch.add(Text(f"{origin}: {_origin(node.artifact, name, value)}", "green"))
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
