"""`python -m pipeline run SPEC.json`: the entry point of a Ray job; also runs a step for debugging without Prefect."""

import os
import sys
from typing import Annotated

import typer

from model.errors import AgevlmError

app = typer.Typer(add_completion=False, help="Run one step of a plan in this process.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Run one step of a plan in this process."""


@app.command()
def run(
    spec: Annotated[
        str, typer.Argument(help="the step, as JSON: a path or URL ('agevlm plan RECIPE --json FOLDER' writes it)")
    ],
) -> None:
    """Run a step and publish its artifact; does nothing if the artifact exists."""
    from pipeline.compute.collection import collection_paused
    from pipeline.compute.threads import wait_briefly
    from pipeline.plan.job import read_job

    try:
        job = read_job(spec)
        # Set before any library that reads these is imported. Without a limit, numerical libraries use all cores.
        threads = str(job.resources.threads)
        os.environ.update({"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **job.environment})
        wait_briefly()

        with collection_paused():
            from pipeline.steps.runner import run_job

        print("\n".join(job.links), flush=True)
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
