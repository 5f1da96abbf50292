"""agevlm artifacts, show, lineage, verify."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.terminal import console, duration
from pipeline.artifacts.manifest import plural

if TYPE_CHECKING:
    from pipeline.artifacts.store import ArtifactStore

Id = Annotated[str, typer.Argument(metavar="ID", help="an artifact's id, or as many of its first digits as are unique")]

BAD_REMEDY = """
To repair a bad artifact, move its folder out of the store and run its recipe again: it is made anew under the same id.
Until then, what was made from it is called stale. After that it is stale only if the new files have other bytes than
the old ones. The folders to move:"""
STALE_REMEDY = """
To replace a stale artifact whose input is there again, name its step, as 'agevlm plan RECIPE' calls it, in the
parameter force: agevlm run agevlm/full-recipe -p recipe=RECIPE -p 'force=["STEP"]'
(and with the run's other parameters, if it had any). It is made beside the old one under an id of its own, and so is
everything that follows from it."""


def artifacts(
    kind: Annotated[str | None, typer.Option(help="only this kind: inventory, masks, checkpoint, ...")] = None,
) -> None:
    """List the artifacts of the store."""
    from rich.markup import escape
    from rich.table import Table

    from flows.describe import size_text
    from model.errors import ArtifactError
    from pipeline.artifacts.spec import short

    store = _store()
    damaged: list[ArtifactError] = []
    found = [a for a in store.artifacts(damaged) if kind in (None, a.ref.kind)]
    table = Table("kind", "name", "id", "rows", "size", "made (UTC)", "took", box=None, pad_edge=False)
    for artifact in found:
        counts, provenance = artifact.manifest.counts, artifact.manifest.provenance
        table.add_row(
            artifact.ref.kind,
            artifact.ref.name,
            short(artifact.ref.id) + (f" (attempt {artifact.manifest.attempt})" if artifact.manifest.attempt else ""),
            f"{counts.rows_out} {plural(counts.unit)}",
            size_text(artifact.manifest.bytes),
            provenance.started[:16].replace("T", " "),
            duration(provenance.seconds),
        )
    console().print(table)
    total = sum(artifact.manifest.bytes for artifact in found)
    console().print(f"\n{len(found)} artifacts, {size_text(total)}   (store: {store.root})", highlight=False)
    for error in damaged:
        console().print(f"[red]not listed[/]: {escape(str(error))}", highlight=False)


def show(
    id: Id,
    rejects: Annotated[int, typer.Option(help="how many of the rejected rows to show")] = 5,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="print manifest.json as it is, and nothing else")
    ] = False,
) -> None:
    """Show all about an artifact.

    Its parameters, inputs, counts, rejects, statistics, files, and where it was made.
    """
    from flows.describe import description
    from pipeline.artifacts.lineage import stale_reason

    artifact = _store().find(id)
    if manifest:
        print(artifact.manifest.to_bytes().decode("ascii"), end="")
        return
    out = console()
    for part in description(artifact, rejects):
        out.print(part)
    reason = stale_reason(artifact.store, artifact)
    if reason:
        out.print(f"[yellow]stale[/]: {reason}", highlight=False)


def lineage(id: Id) -> None:
    """Show what an artifact was made from, back to the raw data.

    And to the pretrained weights, as a tree.
    """
    from flows.describe import lineage_tree

    store = _store()
    console().print(lineage_tree(store, store.find(id)))


def verify(
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="an artifact's id; or use --all")] = None,
    all: Annotated[bool, typer.Option("--all", help="every artifact of the store")] = False,
) -> None:
    """Hash every file again, and name those that changed.

    Exit code 1 if there is one.
    """
    from model.errors import ArtifactError, ConfigError
    from pipeline.artifacts.lineage import stale_reason
    from pipeline.artifacts.manifest import MANIFEST
    from pipeline.artifacts.store import Problem

    if (id is None) == (not all):
        raise ConfigError("give either an artifact's id or --all")
    store = _store()
    refs = list(store.refs()) if id is None else [store.find_ref(id)]
    problems: list[Problem] = []
    files = size = stale = 0
    for ref in refs:
        try:
            artifact = store.require(ref)
        except ArtifactError as error:
            problems.append(Problem(ref, MANIFEST, str(error)))
            print(f"BAD    {ref}: {MANIFEST}: {error}", flush=True)
            continue
        bad = artifact.verify()
        problems += bad
        files, size = files + len(artifact.files), size + artifact.manifest.bytes
        for problem in bad:
            print(f"BAD    {ref}: {problem.file} {problem.what}  ({artifact.path(problem.file)})", flush=True)
        reason = stale_reason(store, artifact) if not bad else ""
        if reason:
            stale += 1
            print(f"stale  {ref}: {reason}", flush=True)
        elif not bad:
            print(f"ok     {ref}", flush=True)
    note = f", {stale} stale" if stale else ""
    print(f"\n{len(refs)} artifacts, {files} files, {size:,} bytes: {len(problems)} bad files{note}", flush=True)
    if problems:
        print(BAD_REMEDY)
        for folder in dict.fromkeys(store.join(problem.ref.path) for problem in problems):
            print(f"  {folder}")
    if stale:
        print(STALE_REMEDY)
    if problems:
        raise typer.Exit(1)


def _store() -> "ArtifactStore":
    from flows.state import store_in_use
    from pipeline.artifacts.store import ArtifactStore

    return ArtifactStore(store_in_use())


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (artifacts, show, lineage, verify):
        app.command(rich_help_panel="Artifacts")(command)
