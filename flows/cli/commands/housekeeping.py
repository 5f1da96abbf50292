"""agevlm gc, tag, tags, untag: remove what is not needed, and give artifacts names."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.commands.artifacts import Id
from flows.cli.terminal import console

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.artifacts.gc import Rules, Verdict
    from pipeline.artifacts.store import ArtifactStore

UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="remove what is not needed (default: only show it)")] = False,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="younger artifacts, unfinished shards and records of runs stay: 30d, 12h")
    ] = "30d",
    grace: Annotated[
        str, typer.Option(metavar="AGE", help="younger files without a manifest stay: a writer may be at them")
    ] = "1d",
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RECIPE",
            help="keep what this recipe's plan has (name or file; default: all shipped ones); may be repeated",
        ),
    ] = None,
    results: Annotated[
        bool, typer.Option("--results", help="also old reports and checkpoints, which else stay with their inputs")
    ] = False,
    all: Annotated[bool, typer.Option("--all", help="list every thing that is kept")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON, and nothing else")] = False,
) -> None:
    """Show what is not needed any more; --delete removes it.

    It looks through the store and the scratch folder. Kept are tagged artifacts, those of recipes, of open runs and of
    living jobs, reports and checkpoints, the newest of each kind and name, and young ones; and all that they were made
    from. Also found: what killed writers left, and old records of runs. docs/artifacts.md has the rules. A run that
    begins while this removes waits. Exit code 1 if something could not be removed.
    """
    from time import time

    from flows.cli.gc_needs import needs_of, refuse_planning
    from flows.cli.gc_view import as_json, gc_tables, summary
    from flows.cli.surroundings import open_store
    from pipeline.artifacts.contents import contents, scratch_files
    from pipeline.artifacts.gc import Judge
    from pipeline.artifacts.paths import scratch_folder
    from pipeline.artifacts.removal import FAILED, RemovalLock, store_time

    rules = _rules(older_than, grace, results)
    store, out = open_store(), console()
    with ExitStack() as stack:
        renew: Callable[[], None] = stack.enter_context(RemovalLock(store)).renew if delete else lambda: None
        things = []
        for thing in contents(store):
            renew()
            things.append(thing)
        things += scratch_files(scratch_folder())
        # Of two clocks the earlier one, so that nothing looks older than it is: writers' files have the store's times.
        now = min(time(), store_time(store)) if delete else time()
        found = needs_of(store, things, recipe or (), now - rules.older_than)
        if delete:
            refuse_planning(found)
        verdicts = list(Judge(things, found.needs(), rules, now).verdicts())
        notes = [*found.notes, *(f"run {run} is being planned" for run in found.planning)]
        if not json:
            for part in gc_tables(verdicts, all):
                out.print(part)
            for note in notes:
                out.print(f"note: {note}", highlight=False, markup=False)
            out.print(f"\n{summary(verdicts)}   (store: {store.root})", highlight=False, markup=False)
        outcome = _remove(store, verdicts, renew) if delete else {}
    if json:
        told = [as_json(v, *outcome.get(v.thing.path, (None if not delete else False, ""))) for v in verdicts]
        print(_dumps({"store": store.root, "deleted": delete, "notes": notes, "things": told}))
    elif not delete:
        out.print("Nothing was removed. 'agevlm gc --delete' with the same options removes it.", highlight=False)
    else:
        removed = [v for v in verdicts if outcome.get(v.thing.path, (False, ""))[0]]
        for verdict in verdicts:
            if trouble := outcome.get(verdict.thing.path, (False, ""))[1]:
                out.print(f"left: {verdict.thing.path}: {trouble}", highlight=False, markup=False)
        out.print(f"Removed {len(removed)} things.", highlight=False)
    if any(trouble.startswith(FAILED) for _, trouble in outcome.values()):
        raise typer.Exit(1)


def _remove(
    store: "ArtifactStore", verdicts: "Sequence[Verdict]", renew: "Callable[[], None]"
) -> dict[str, tuple[bool, str]]:
    """Remove what is not needed. Returns path -> removed or not, and the reason why not."""
    from pipeline.artifacts.gc import in_order
    from pipeline.artifacts.removal import remove_all

    ordered = in_order(verdict.thing for verdict in verdicts if not verdict.keep)
    return {thing.path: (not trouble, trouble) for thing, trouble in remove_all(store, ordered, renew)}


def _rules(older_than: str, grace: str, results: bool) -> "Rules":
    from pipeline.artifacts.gc import RESULTS, Rules

    return Rules(
        older_than=_seconds("--older-than", older_than),
        grace=_seconds("--grace", grace),
        kept_kinds=frozenset() if results else RESULTS,
    )


def _seconds(option: str, text: str) -> float:
    """An age in seconds: '30d', '12h', '90m'. Raises ConfigError."""
    from model.errors import ConfigError

    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.isdecimal() or not number.isascii() or len(number) > 6:
        raise ConfigError(f"{option} {text}: write a whole number and d, h, m or s, as in 30d")
    return int(number) * UNITS[unit]


def _dumps(value: Any) -> str:
    from json import dumps

    return dumps(value, indent=1)


def tag(
    id: Id,
    name: Annotated[str, typer.Argument(metavar="NAME", help="letters, digits, . _ - and not only digits 0-9 a-f")],
    move: Annotated[bool, typer.Option("--move", help="take the name from another artifact")] = False,
) -> None:
    """Give an artifact a name. It can be used wherever an id can, and 'agevlm gc' keeps the artifact."""
    from flows.cli.surroundings import open_store
    from model.errors import ArtifactError, ConfigError
    from pipeline.artifacts.removal import IF_KILLED, lock_holder, wait_for_removal
    from pipeline.artifacts.resolve import named

    store = open_store()
    ref = store.require(store.find_ref(id)).ref
    if holder := lock_holder(store):
        raise ConfigError(
            f"'agevlm gc' ({holder}) is removing things from {store.root}; tag again when it is over{IF_KILLED}"
        )
    taken = _taken_names()
    if store.tags.get(name) is None and name not in taken and (_is_step_key(name) or named(store, name)):
        taken = taken | {name}
    made = store.tags.put(name, ref, move, taken)
    # The tag is written first, then the lock is looked at; gc does the opposite. So one of them sees the other.
    wait_for_removal(store, lambda text: console().print(text, highlight=False, markup=False))
    if not store.exists(ref):
        raise ArtifactError(f"{ref} was removed meanwhile: 'agevlm untag {name}'")
    moved = f", before {made.earlier}" if made.earlier is not None else ""
    console().print(f"{name}  {ref}{moved}", highlight=False, markup=False)


def _taken_names() -> frozenset[str]:
    """Names that mean a step, a kind or a row of the stage table."""
    from model.stage_table import STAGES
    from pipeline.plan.step_table import STEPS

    return frozenset({*STEPS, *(step.kind for step in STEPS.values()), *STAGES})


def _is_step_key(name: str) -> bool:
    """True if a plan can have a step of this name, in this store's recipes or in others: 'segment-pretrain'."""
    from model.stage_table import VARIANT_ROWS
    from pipeline.plan.planner import DATASETS
    from pipeline.plan.step_table import STEPS

    return name in {f"{step}-{end}" for step in STEPS for end in (*DATASETS, *VARIANT_ROWS)}


def tags(json: Annotated[bool, typer.Option("--json", help="print JSON, and nothing else")] = False) -> None:
    """List the names that artifacts were given."""
    from rich.table import Table
    from rich.text import Text

    from flows.cli.surroundings import open_store
    from pipeline.artifacts.spec import short

    store = open_store()
    found = list(store.tags.all())
    if json:
        print(_dumps([one.model_dump(mode="json") for one in found]))
        return
    table = Table("name", "kind", "artifact", "id", "since (UTC)", "by", box=None, pad_edge=False)
    for one in found:
        assert one.target is not None
        gone = "" if store.exists(one.target) else "  (gone)"
        table.add_row(
            one.name,
            one.target.kind,
            one.target.name,
            Text(short(one.target.id) + gone),
            one.at[:16].replace("T", " "),
            one.by,
        )
    console().print(table)
    console().print(f"\n{len(found)} tags   (store: {store.root})", highlight=False, markup=False)


def untag(name: Annotated[str, typer.Argument(metavar="NAME", help="the name, as 'agevlm tags' lists it")]) -> None:
    """Take a name away. The artifact stays."""
    from flows.cli.surroundings import open_store

    store = open_store()
    removed = store.tags.remove(name)
    console().print(f"{name} is no name any more; it was {removed.target}", highlight=False, markup=False)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (tag, tags, untag, gc):
        app.command(rich_help_panel="Artifacts")(command)
