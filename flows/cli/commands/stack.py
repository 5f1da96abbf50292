"""agevlm up, status, down, env."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.terminal import console, progress_lines

if TYPE_CHECKING:
    from infra.local.stack_file import StackState


def up(
    host: Annotated[
        str,
        typer.Option(
            help="address that the pages of Prefect and Ray listen on, such as 0.0.0.0; they ask for the secret, but "
            "over plain HTTP: read SECURITY.md first",
            show_default="loopback",
        ),
    ] = "",
) -> None:
    """Start the local stack: Prefect, Ray and a worker.

    All listen on loopback, unless --host is given. Prometheus and Grafana are started too, where they are installed.
    Free ports are chosen and recorded. If it runs already, only the parts that are missing are started. The pages ask
    for a secret, which is printed when it is made.

    Ray gets the CPUs that this process may use, and an object store of 30 % of the memory above 16 GiB: at least 512
    MiB, at most 200 GB and what /dev/shm has free. The limits of a container count. AGEVLM_CPUS and
    AGEVLM_OBJECT_STORE_GIB give other numbers.
    """
    from flows.cli.surroundings import local_stack
    from infra.local.hosts import warning

    stack = local_stack()
    first = not stack.folders.secret.exists() and stack.file.load() is None
    state = stack.up(progress_lines(), host)
    prefect, ray = state.url("prefect"), state.url("ray_dashboard")
    lines = ["", f"Prefect  {prefect}", f"Ray      {ray}", f"Both     {stack.secret_hint()}"]
    if first:
        lines.append(f"         it is {stack.secret()} (printed this once)")
    lines += [f"store    {state.store}", *filter(None, [warning(state.host)])]
    console().print("\n".join(lines), highlight=False, markup=False)
    print_charts(state)
    console().print('Another shell: eval "$(agevlm env)"     To end it: agevlm down', highlight=False)


def print_charts(state: "StackState") -> None:
    """Print where the metrics are drawn: Grafana's page, or a link to Prometheus' page with all queries filled in."""
    from rich.text import Text

    from pipeline.compute.panels import graph_pages

    if "grafana" in state.ports:
        pages = {"Grafana": f"{state.url('grafana')}/d/agevlm"}
    elif "prometheus" in state.ports:
        pages = graph_pages(state.url("prometheus"))
    else:
        console().print("charts   none: Prometheus is not installed (docs/slow.md)", highlight=False, markup=False)
        return
    out = console()
    if out.is_terminal:  # the addresses hold ten queries each: a terminal shows their titles as links
        line = Text("charts   ")
        for title, page in pages.items():
            line.append(title, f"link {page}").append("   ")
        out.print(line.append(page.split("?")[0], "dim"))
    else:
        for title, page in pages.items():
            out.print(f"charts   {title}: {page}", highlight=False, markup=False, soft_wrap=True)
    out.print("         (user agevlm, password: the same secret)", highlight=False, markup=False)


def status() -> None:
    """Show the stack's processes and addresses. Exit code 1 if one that runs need does not work."""
    from rich.table import Table

    from flows.cli.surroundings import local_stack

    stack = local_stack()
    rows = stack.status()
    if not rows:
        console().print(
            f"the local stack in {stack.folders.home} is not up; start it with 'agevlm up'", highlight=False
        )
        raise typer.Exit(1)
    table = Table("process", "pid", "state", box=None, pad_edge=False)
    table.add_column("address", no_wrap=True)  # it is copied from here
    table.add_column("log", overflow="fold")
    for row in rows:
        colour = "green" if row.state == "ready" else "red" if row.needed else "yellow"
        table.add_row(row.name, str(row.pid or "-"), f"[{colour}]{row.state}[/]", row.url or "-", row.log or "-")
    console().print(table)
    console().print(f"The pages of Prefect and Ray {stack.secret_hint()}", highlight=False, markup=False)
    if {row.state for row in rows} & {"dead", "broken", "not started"}:
        console().print("'agevlm up' starts again what is dead or broken", highlight=False)
    for row in rows:
        if row.state == "not answering":
            hint = f"if the {row.name} stays so: 'kill -9 {row.pid}' and 'agevlm up'"
            console().print(hint, highlight=False, markup=False)
    if any(row.needed and row.state != "ready" for row in rows):
        raise typer.Exit(1)


def down() -> None:
    """End exactly the processes that 'up' started.

    Their descendants are ended too, also after a crash. Artifacts, flow runs and logs stay; a later 'up' finds them.
    """
    from flows.cli.surroundings import local_stack

    if local_stack().down(progress_lines()) == 0:
        console().print("nothing to end: the local stack is not up")


def env() -> None:
    """Print the stack's variables for a shell.

    After eval "$(agevlm env)" 'prefect deployment run agevlm/full-recipe' and every other 'prefect' and 'ray job'
    command of this project's environment talk to the local stack.
    """
    from flows.cli.surroundings import local_stack

    print(local_stack().shell_lines())


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (up, status, down, env):
        app.command(rich_help_panel="Local stack")(command)
