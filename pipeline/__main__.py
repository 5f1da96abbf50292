"""`python -m pipeline run SPEC.json`: what a Ray job executes, and how a step is debugged without Prefect."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from model.errors import AgevlmError
from pipeline.job import read_job
from pipeline.steps.context import run_job

app = typer.Typer(add_completion=False, help="Run one step of a plan in this process.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Run one step of a plan in this process."""


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="the step, as JSON ('agevlm plan RECIPE --json FOLDER' writes it)")],
) -> None:
    """Run a step and publish its artifact; does nothing if the artifact exists."""
    try:
        job = read_job(spec)
        print(f"{job.key}: making {job.ref}", flush=True)
        artifact = run_job(job)
    except AgevlmError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(1) from error
    print(
        f"{job.key}: published {artifact.ref}: {artifact.manifest.counts.summary} "
        f"in {artifact.manifest.provenance.seconds:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    app()
