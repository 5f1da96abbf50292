"""agevlm events."""

from typing import Annotated

import typer


def events(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="a run's name or id in Prefect, or 'latest': the newest of the store")
    ] = "latest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the run is over")] = False,
    json: Annotated[bool, typer.Option("--json", help="one JSON object per line, as in the event log")] = False,
) -> None:
    """Print the events of a run.

    They are its plan, and each step's start, job, retry and end. docs/operate.md lists the events and their fields.
    Exit code 1 if --follow saw the run end without completing.
    """
    from json import dumps

    from flows.cli.surroundings import open_store
    from flows.cli.terminal import visible
    from flows.run.event_log import follow_events, read_events
    from flows.run.events import line_of
    from flows.run.run_file import OPEN, find_run, read_run

    store = open_store()
    found = find_run(store, run)

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


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Runs")(events)
