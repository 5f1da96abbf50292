"""agevlm artifacts, show, lineage, verify, diff."""

from typing import Annotated

import typer

from flows.cli.terminal import console, duration, size_text
from pipeline.artifacts.manifest import plural

ANY_ID = "an artifact's id or its first digits, a tag, KIND/NAME, a step such as stage4_lm, or latest"
Id = Annotated[str, typer.Argument(metavar="ID", help=ANY_ID)]

BAD_REMEDY = """
To repair a bad artifact, move its folder out of the store and run its recipe again: it is made again under the same id.
Until then, the artifacts that were made from it are listed as stale. After that, they are stale only if the new files
differ from the old ones. The folders to move:"""
STALE_REMEDY = """
To replace a stale artifact whose input exists again, give its step, as 'agevlm plan RECIPE' lists it, in the
parameter force: agevlm run agevlm/full-recipe -p recipe=RECIPE -p 'force=["STEP"]'
(add the run's other parameters, if it had any). The new artifact gets a new id and the old one stays. Everything that
follows from it is made again too."""


def artifacts(
    kind: Annotated[str | None, typer.Option(help="only this kind: inventory, masks, checkpoint, ...")] = None,
) -> None:
    """List the artifacts of the store."""
    from rich.markup import escape
    from rich.table import Table

    from flows.cli.surroundings import open_store
    from model.errors import ArtifactError, ConfigError
    from pipeline.artifacts.spec import short
    from pipeline.plan.step_table import STEPS

    store = open_store()
    kinds = {*store.kinds(), *(step.kind for step in STEPS.values())}
    if kind is not None and kind not in kinds:
        raise ConfigError(f"--kind {kind}: there is no such kind; kinds are {', '.join(sorted(kinds))}")
    damaged: list[ArtifactError] = []
    found = [a for a in store.artifacts(damaged) if kind in (None, a.ref.kind)]
    table = Table("kind", "name", "id", "rows", "size", "made (UTC)", "took", box=None, pad_edge=False)
    for artifact in found:
        counts, provenance = artifact.manifest.counts, artifact.manifest.provenance
        table.add_row(
            escape(artifact.ref.kind),
            escape(artifact.ref.name),
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
    rejects: Annotated[int, typer.Option(help="number of rejected rows to show")] = 5,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="print manifest.json as it is, and nothing else")
    ] = False,
) -> None:
    """Show an artifact in full.

    Parameters, inputs, counts, rejects, statistics, files, and the time and machine of its making.
    """
    from flows.cli.artifact_view import artifact_details
    from flows.cli.surroundings import open_store
    from flows.run.run_file import runs_of
    from pipeline.artifacts.lineage import stale_reason

    artifact = open_store().find(id)
    if manifest:
        print(artifact.manifest.to_bytes().decode("ascii"), end="")
        return
    out = console()
    for part in artifact_details(artifact, rejects):
        out.print(part)
    reason = stale_reason(artifact.store, artifact)
    if reason:
        out.print(f"[yellow]stale[/]: {reason}", highlight=False)
    followers = runs_of(artifact.store, artifact.ref.id)
    if followers:
        out.print("\n[bold]flow runs that started its job or followed it[/]")
    for record, step in followers:
        where = f"{record.flow_run or record.flow_run_id}  {record.page or ''}"
        out.print(f"  {where}  {step.state}, job {step.job}", highlight=False, markup=False)


def lineage(id: Id) -> None:
    """Show the ancestors of an artifact, back to the raw data.

    They are drawn as a tree; the pretrained weights are included.
    """
    from flows.cli.artifact_view import lineage_tree
    from flows.cli.surroundings import open_store

    store = open_store()
    console().print(lineage_tree(store, store.find(id)))


def verify(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="an artifact's id or name; or use --all")] = None,
    all: Annotated[bool, typer.Option("--all", help="every artifact of the store")] = False,
) -> None:
    """Hash every file again and list the files that changed.

    Exit code 1 if a file changed. A stale artifact (its input was replaced) is listed too, but is no error.
    """
    from flows.cli.surroundings import open_store
    from model.errors import ArtifactError, ConfigError
    from pipeline.artifacts.lineage import stale_reason
    from pipeline.artifacts.manifest import MANIFEST
    from pipeline.artifacts.store import Problem

    if (id is None) == (not all):
        raise ConfigError("give either an artifact's id or --all")
    store = open_store()
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
            print(f"BAD    {ref}: {problem.file} {problem.what}  ({artifact.location(problem.file)})", flush=True)
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


def diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help=ANY_ID)],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="another one, named in the same ways")],
    json: Annotated[bool, typer.Option("--json", help="print JSON, and nothing else")] = False,
) -> None:
    """Say what differs between two artifacts.

    Parameters (those of their inputs too), inputs, rows and rejects by reason, statistics and scores, the columns of
    tables, and files. Only manifests, scores and the schemas of changed tables are read.
    """
    from json import dumps

    from flows.cli.difference_view import as_json, difference_tables, hint
    from flows.cli.surroundings import open_store
    from pipeline.artifacts.difference import difference

    store = open_store()
    found = difference(store.find(before), store.find(after))
    if json:
        print(dumps(as_json(found), indent=1))
        return
    for part in difference_tables(found):
        console().print(part)
    if hint(found):
        console().print(f"\n{hint(found)}", highlight=False, markup=False)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (artifacts, show, lineage, diff, verify):
        app.command(rich_help_panel="Artifacts")(command)
