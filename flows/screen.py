"""What a flow run looks like on a terminal: a live table while it runs, and the table at its end."""

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.run_state import StepRecord
from flows.terminal import duration
from flows.watch import View, outcome_text
from pipeline.artifacts.spec import short
from pipeline.progress import progress_text

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
"""Lines of the terminal that are not steps."""


class LiveTable:
    """A screen that redraws one table in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def show(self, view: View) -> None:
        """Draw a view."""
        self._live.update(live_table(view, self._console.height))

    def close(self) -> None:
        """Remove the table; what follows is printed in its place."""
        self._live.stop()


def visible(steps: tuple[StepRecord, ...], room: int) -> tuple[StepRecord, ...]:
    """The steps that fit on the terminal: those that run, and their neighbours."""
    if len(steps) <= room:
        return steps
    active = [i for i, step in enumerate(steps) if step.state == "running"]
    done = sum(step.state != "pending" for step in steps)
    middle = active[0] if active else done
    first = max(0, min(middle - room // 3, len(steps) - room))
    return steps[first : first + room]


def live_table(view: View, height: int) -> Group:
    """A view as a table that fits into `height` lines."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("step", no_wrap=True, min_width=max((len(step.key) for step in view.steps), default=4))
    table.add_column("state", no_wrap=True, min_width=9)
    table.add_column("", width=10)
    table.add_column("progress", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("time", no_wrap=True, justify="right", min_width=6)
    for step in visible(view.steps, max(5, height - MARGIN)):
        found = view.progress.get(step.key) if step.state == "running" else None
        bar: ProgressBar | str = ""
        if found and found.get("total"):
            bar = ProgressBar(total=float(found["total"]), completed=float(found.get("done", 0)), width=10)
        seconds = view.since.get(step.key) if step.state == "running" else step.seconds
        text = progress_text(found) if step.state == "running" else outcome_text(step)
        table.add_row(
            step.key, Text(step.state, COLOURS[step.state]), bar, Text(text, overflow="ellipsis"), duration(seconds)
        )
    made = sum(step.state in ("cached", "completed") for step in view.steps)
    title = f"{view.flow.name}   {made} of {len(view.steps)} steps   {duration(view.seconds)}"
    return Group(Text(title, "bold"), table)


def final_table(view: View) -> Table:
    """The steps of a run that is over: id, state, rows, seconds."""
    table = Table("step", "id", "state", "rows", "time", box=None, pad_edge=False)
    for step in view.steps:
        table.add_row(
            step.key,
            short(step.id),
            Text(step.state, COLOURS[step.state]),
            outcome_text(step),
            duration(step.seconds),
        )
    return table
