"""agevlm events."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.run.run_file import RunRecord
    from pipeline.artifacts.store import ArtifactStore

START_SECONDS, POLL_SECONDS = 60.0, 0.5
"""Longest time that --follow waits for a run to begin, and the pause between looks."""


def events(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="a run's name or id in Prefect, or 'latest': the newest of the store")
    ] = "latest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the run is over")] = False,
    json: Annotated[bool, typer.Option("--json", help="one JSON object per line, as in the event log")] = False,
) -> None:
    """Print the events of a run.

    They are its plan, and each step's start, job, retry and end. docs/operate.md lists the events and their fields.
    With --follow a run that has not begun is waited for, for a minute. Exit code 1 if --follow saw the run end without
    completing.
    """
    from json import dumps

    from flows.cli.surroundings import open_store
    from flows.cli.terminal import visible
    from flows.run.event_log import follow_events, read_events
    from flows.run.events import line_of
    from flows.run.run_file import OPEN, find_run, read_run

    store = open_store()
    found = _awaited(store, run) if follow else find_run(store, run)

    def state() -> str:
        record = read_run(store, found.flow_run_id)
        return "removed" if record is None else record.state

    def is_over() -> bool:
        return state() not in OPEN

    id = found.flow_run_id
    for event in follow_events(store, id, is_over) if follow else read_events(store, id):
        print(dumps(event) if json else visible(line_of(event)), flush=True)
    if follow and state() != "completed":
        raise typer.Exit(1)


def _awaited(store: "ArtifactStore", run: str) -> "RunRecord":
    """A run, which may begin soon: `agevlm run` tells its name before that. Raises ConfigError if it does not."""
    from flows.cli.terminal import visible
    from flows.run.run_file import UnknownRunError, find_run

    deadline, told = time.monotonic() + START_SECONDS, False
    while True:
        try:
            return find_run(store, run)
        except UnknownRunError:
            if time.monotonic() > deadline:
                raise
        if not told:
            print(visible(f"waiting for the run '{run}' to begin"), file=sys.stderr, flush=True)
            told = True
        time.sleep(POLL_SECONDS)


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Runs")(events)
