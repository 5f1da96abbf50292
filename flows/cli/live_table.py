"""A flow run as a table: redrawn in place while it runs, and printed once at its end."""

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.cli.terminal import duration
from flows.cli.watch import RunSnapshot, outcome_text
from flows.run.run_file import StepRecord
from pipeline.artifacts.progress import progress_text
from pipeline.artifacts.spec import short

COLOURS = {
    "pending": "dim",
    "running": "bold cyan",
    "cached": "blue",
    "completed": "green",
    "failed": "bold red",
    "cancelled": "yellow",
    "crashed": "bold red",
    "skipped": "yellow",
}
MARGIN = 6
"""Lines of the terminal that are kept free of steps."""


class LiveTable:
    """Redraws one table in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def show(self, snapshot: RunSnapshot) -> None:
        """Draw a snapshot."""
        self._live.update(live_table(snapshot, self._console.height))

    def close(self) -> None:
        """Remove the table; the next output is printed in its place."""
        self._live.stop()


def visible(steps: tuple[StepRecord, ...], room: int) -> tuple[StepRecord, ...]:
    """The steps that fit on the terminal: the running ones and their neighbours."""
    if len(steps) <= room:
        return steps
    active = [i for i, step in enumerate(steps) if step.state == "running"]
    done = sum(step.state != "pending" for step in steps)
    middle = active[0] if active else done
    first = max(0, min(middle - room // 3, len(steps) - room))
    return steps[first : first + room]


def live_table(snapshot: RunSnapshot, height: int) -> Group:
    """A snapshot as a table that fits into `height` lines."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("step", no_wrap=True, min_width=max((len(step.key) for step in snapshot.steps), default=4))
    table.add_column("state", no_wrap=True, min_width=9)
    table.add_column("", width=10)
    table.add_column("progress", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("time", no_wrap=True, justify="right", min_width=6)
    for step in visible(snapshot.steps, max(5, height - MARGIN)):
        found = snapshot.progress.get(step.key) if step.state == "running" else None
        bar: ProgressBar | str = ""
        if found and found.get("total"):
            bar = ProgressBar(total=float(found["total"]), completed=float(found.get("done", 0)), width=10)
        seconds = snapshot.since.get(step.key) if step.state == "running" else step.seconds
        text = progress_text(found) if step.state == "running" else outcome_text(step)
        table.add_row(
            step.key, Text(step.state, COLOURS[step.state]), bar, Text(text, overflow="ellipsis"), duration(seconds)
        )
    made = sum(step.state in ("cached", "completed") for step in snapshot.steps)
    title = f"{snapshot.flow.name}   {made} of {len(snapshot.steps)} steps   {duration(snapshot.seconds)}"
    return Group(Text(title, "bold"), table)


def final_table(snapshot: RunSnapshot) -> Table:
    """The steps of a run that is over: id, state, rows and time."""
    table = Table("step", "id", "state", "rows", "time", box=None, pad_edge=False)
    for step in snapshot.steps:
        table.add_row(
            step.key,
            short(step.id),
            Text(step.state, COLOURS[step.state]),
            Text(outcome_text(step)),
            duration(step.seconds),
        )
    return table
