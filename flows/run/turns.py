"""Turns: of the jobs that make masks of one subset, one works at a time, whichever flow runs started them.

A job holds its turn as long as Ray lists it as alive and its artifact is not published. So a turn needs no lock that
somebody has to free: it outlives a killed flow process, whose job goes on, and it is over with a killed job. A job
waits for nothing while it has a turn, so turns cannot deadlock.
"""

from flows.run.ray_jobs import Job, JobClient
from pipeline.plan.job import JobSpec

TURN = "turn"
"""Key of a job's metadata."""

ONE_AT_A_TIME = {"segment": "subset"}
"""Step name -> the input of which it makes one artifact at a time. Two runs of the teachers over one subset, with
other settings, would take twice as long each, and compare nothing sooner."""


def turn_of(job: JobSpec) -> dict[str, str]:
    """Metadata that names the turn of a job; {} if it need not wait for one."""
    name = ONE_AT_A_TIME.get(job.spec.step)
    if name is None or name not in job.inputs:
        return {}
    return {TURN: f"{job.spec.step} {job.inputs[name].id}"}


def ahead_of(client: JobClient, job: JobSpec, submission_id: str | None = None) -> list[Job]:
    """The living jobs that have the turn of this one, but make another artifact.

    Args:
        client: Ray.
        job: the job that wants the turn.
        submission_id: its submission id if it was started already: then only jobs that started before it count.
    """
    turn = turn_of(job)
    if not turn:
        return []
    wanted = {**turn, "store": job.locations.root}
    known = client.jobs()
    alive = [other for other in known if other.alive and wanted.items() <= other.metadata.items()]
    others = [other for other in alive if other.metadata.get("artifact") != job.ref.id]
    if submission_id is None:
        return others
    mine = next((other for other in alive if other.id == submission_id), None)
    return [] if mine is None else [other for other in others if (other.started, other.id) < (mine.started, mine.id)]
