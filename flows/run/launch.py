"""Launching one step as one Ray job: its id, its SPEC.json, its command, and joining a job that is alive."""

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from flows.run.ray_jobs import JobClient
from flows.run.settings import Settings
from flows.run.turns import turn_of
from model.errors import StepError
from pipeline.artifacts.manifest import Origin
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
    origin: Origin | None = None
    """The flow run with its name and page, for links; None: only its id is known."""


def join_or_submit(client: JobClient, launch: Launch, job: JobSpec) -> tuple[str, bool]:
    """Join the job that is making this artifact, or start one. Returns its submission id and whether it was joined.

    Two flow runs may do this at once: Ray refuses the second job of an id, and the loser looks again.
    """
    prefix = submission_prefix(launch.recipe, job)
    identity = {"artifact": job.ref.id, "store": job.locations.root}
    asked: set[str] = set()
    for _ in range(TRIES):
        known = client.jobs()
        for other in known:
            if other.alive and identity.items() <= other.metadata.items():
                ours = other.id in asked and other.metadata.get("flow_run_id") == launch.flow_run_id
                return other.id, not ours  # ours: Ray took the submission, and its answer was lost
        tries = [int(other.id[len(prefix) :]) for other in known if _is_try(other.id, prefix)]
        submission_id = f"{prefix}{max(tries, default=0) + 1}"
        location = write_spec(launch, job, submission_id)
        metadata = {
            "job_name": job_name(launch.recipe, job, int(submission_id.removeprefix(prefix))),
            **identity,
            "step": job.key,
            "kind": job.ref.kind,
            "artifact_folder": job.folder,
            "artifact_command": f"agevlm show {short(job.ref.id)}",
            **{name: value for name, value in origin_of(launch, submission_id) if value},
            **turn_of(job),
        }
        asked.add(submission_id)
        if client.submit(submission_id, entrypoint(launch, location), metadata):
            return submission_id, False
    raise StepError(f"{job.key}: other flow runs keep starting jobs named {prefix}*; run again when they are over")


def submission_prefix(recipe: str, job: JobSpec) -> str:
    """The id of a step's jobs up to the number of the try."""
    return f"{recipe}-{job.key}-{short(job.ref.id)}-r"


def job_name(recipe: str, job: JobSpec, number: int) -> str:
    """The column Name of Ray's dashboard: recipe, step, attempt of the artifact, artifact id, and try of the job."""
    return f"{recipe} {job.key} attempt {job.attempt} {short(job.ref.id)} try {number}"


def origin_of(launch: Launch, submission_id: str) -> Origin:
    """The flow run that starts a job, with the pages of both."""
    known = launch.origin or Origin(flow_run_id=launch.flow_run_id)
    return known.model_copy(update={"job_page": launch.settings.job_page(submission_id)})


def write_spec(launch: Launch, job: JobSpec, submission_id: str) -> str:
    """Write a job's SPEC.json into the store, which every node can read. Returns its path, or URL of a remote store."""
    facts = {"submission_id": submission_id, "submitted": time.time(), "recipe": launch.recipe}
    facts |= {"environment": launch.settings.passed_on, "origin": origin_of(launch, submission_id)}
    spec = job.model_copy(update=facts)
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
