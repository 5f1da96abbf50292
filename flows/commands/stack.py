"""agevlm up, status, down, env."""

import typer

from flows.terminal import console, say


def up() -> None:
    """Start the local stack: Prefect, Ray and a worker, on loopback.

    Ports are chosen free and recorded. Starting twice is harmless: only what is not running is started.
    """
    from flows import stack
    from flows.services import token_words

    state = stack.up(say())
    prefect, ray = state.url("prefect"), state.url("ray_dashboard")
    console().print(
        f"\nPrefect  {prefect}\nRay      {ray}   ({token_words()})\nstore    {state.store}",
        highlight=False,
        markup=False,
    )
    console().print('Another shell: eval "$(agevlm env)"     To end it: agevlm down', highlight=False)


def status() -> None:
    """Show the stack's processes and addresses. Exit code 1 if any does not work."""
    from rich.table import Table

    from flows import stack
    from flows.home import home
    from flows.services import token_words

    rows = stack.status()
    if not rows:
        console().print(f"the local stack in {home()} is not up; start it with 'agevlm up'", highlight=False)
        raise typer.Exit(1)
    table = Table("what", "pid", "state", "address", "log", box=None, pad_edge=False)
    for row in rows:
        colour = "green" if row.state == "ready" else "red"
        table.add_row(row.name, str(row.pid or "-"), f"[{colour}]{row.state}[/]", row.url or "-", row.log or "-")
    console().print(table)
    console().print(f"Ray's page {token_words()}", highlight=False, markup=False)
    if any(row.state != "ready" for row in rows):
        raise typer.Exit(1)


def down() -> None:
    """End exactly the processes that 'up' started.

    With their descendants, also after a crash.

    Artifacts, flow runs and logs stay; a later 'up' finds them again.
    """
    from flows import stack

    if stack.down(say()) == 0:
        console().print("nothing to end: the local stack is not up")


def env() -> None:
    """Print the stack's variables for a shell: eval "$(agevlm env)".

    After that 'prefect deployment run agevlm/full-recipe' and every other 'prefect' and 'ray job' command of this
    project's environment talk to the local stack.
    """
    from flows.environment import shell_lines
    from flows.stack import require

    require()
    print(shell_lines())


def register(app: typer.Typer) -> None:
    """Add these commands."""
    panel = "Local stack"
    for command in (up, status, down, env):
        app.command(rich_help_panel=panel)(command)
