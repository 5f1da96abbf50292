"""Launching one step as one Ray job: its id, its SPEC.json, its command, and joining a job that is alive."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from flows.run.ray_jobs import JobClient
from flows.run.settings import Settings
from flows.run.turns import turn_of
from model.errors import StepError
from pipeline.artifacts.spec import short
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.job import JobSpec

TRIES = 10
"""Submissions of one step before it fails: each loses the race for its id to another flow run."""


@dataclass(frozen=True)
class Launch:
    """Settings that all jobs of one flow run share."""

    recipe: str
    flow_run_id: str
    settings: Settings
    module: str = "pipeline"
    """The module that a job runs as `python -m MODULE run SPEC.json`; tests give their own."""


def join_or_submit(client: JobClient, launch: Launch, job: JobSpec) -> tuple[str, bool]:
    """Join the job that is making this artifact, or start one. Returns its submission id and whether it was joined.

    Two flow runs may do this at once: Ray refuses the second job of an id, and the loser looks again.
    """
    prefix = submission_prefix(launch.recipe, job)
    identity = {"artifact": job.ref.id, "store": job.locations.root}
    for _ in range(TRIES):
        known = client.jobs()
        for other in known:
            if other.alive and identity.items() <= other.metadata.items():
                return other.id, True
        tries = [int(other.id[len(prefix) :]) for other in known if _is_try(other.id, prefix)]
        submission_id = f"{prefix}{max(tries, default=0) + 1}"
        location = write_spec(launch, job, submission_id)
        metadata = {
            "job_name": f"{launch.recipe} {job.key}",  # the column Name of Ray's dashboard
            **identity,
            "step": job.key,
            "kind": job.ref.kind,
            "flow_run_id": launch.flow_run_id,
            **turn_of(job),
        }
        if client.submit(submission_id, entrypoint(launch, location), metadata):
            return submission_id, False
    raise StepError(f"{job.key}: other flow runs keep starting jobs named {prefix}*; run again when they are over")


def submission_prefix(recipe: str, job: JobSpec) -> str:
    """The id of a step's jobs up to the number of the try."""
    return f"{recipe}-{job.key}-{short(job.ref.id)}-r"


def write_spec(launch: Launch, job: JobSpec, submission_id: str) -> str:
    """Write a job's SPEC.json into the store, which every node can read. Returns its path, or URL of a remote store."""
    spec = job.model_copy(update={"submission_id": submission_id, "environment": launch.settings.passed_on})
    root, path = job.locations.root, f"jobs/{submission_id}.json"
    ArtifactStore(root).write_json(path, spec.model_dump(mode="json"))
    return f"{root.rstrip('/')}/{path}"


def entrypoint(launch: Launch, location: str) -> str:
    """The shell command of a job: the flow's own interpreter, in the project's folder.

    It sets no environment and uses no runtime_env of Ray: with one, Ray cannot use the workers that it keeps ready, and
    each job takes several CPU seconds longer to start. Ray adds the driver's working folder to its workers' import
    path, so that they find the project.
    """
    repo, python = launch.settings.repo, Path(sys.executable)
    program = python.relative_to(repo) if python.is_relative_to(repo) else python
    words = [str(program), "-u", "-m", launch.module, "run", location]
    return f"cd {shlex.quote(str(repo))} && exec {shlex.join(words)}"


def _is_try(submission_id: str, prefix: str) -> bool:
    return submission_id.startswith(prefix) and submission_id[len(prefix) :].isdigit()
