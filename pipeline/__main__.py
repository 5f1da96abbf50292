"""`python -m pipeline run SPEC.json`: the entry point of a Ray job; also runs a step for debugging without Prefect."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from model.errors import AgevlmError, StepError

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
    from pipeline.plan.job import JobSpec, read_job

    job: JobSpec | None = None
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
    except Exception as error:
        message = told(error, [job.locations.root, job.locations.scratch] if job is not None else [])
        if not message:
            raise
        print(message, file=sys.stderr, flush=True)
        raise typer.Exit(1) from error
    print(
        f"{job.key}: published {artifact.ref}: {artifact.manifest.counts.summary} "
        f"in {artifact.manifest.provenance.seconds:.1f} s",
        flush=True,
    )


def told(error: Exception, places: Sequence[str]) -> str:
    """The message of an error that a user can mend; '' for one that needs its traceback.

    A disk that is full or read-only is named as such, also if a library or another message speaks of something else.

    Args:
        error: the error.
        places: folders that the step writes to.
    """
    from pipeline.artifacts.room import disk_fault, explained, fault_in_text

    fault = disk_fault(error)
    if fault is None and not isinstance(error, OSError | AgevlmError):
        fault = fault_in_text(str(error))
    if isinstance(error, StepError) or (isinstance(error, AgevlmError) and fault is None):
        return f"{type(error).__name__}: {error}"
    if fault is not None:
        first = str(error).strip().split("\n")[0][:300]
        return f"StepError: {explained(fault, places)}\n  told by: {type(error).__name__}: {first}"
    return f"StepError: {explained(error, places)}" if isinstance(error, OSError) else ""


if __name__ == "__main__":
    app()
