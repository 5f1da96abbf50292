"""The causes for which a failed step is tried again: its process or its cluster was lost. All others are final.

A wrong recipe, wrong data, a damaged artifact or too many rejects fail again in the same way, so they are never tried
again; neither is a step whose job somebody stopped. A new try is a new Ray job of the same artifact id, and continues
from the shards or checkpoints that the last one committed.
"""

import re
from dataclasses import dataclass

from flows.run.ray_jobs import Job

PAUSES = (5.0, 30.0, 120.0)
"""Seconds before the second, third and fourth try of a step. After the fourth it fails."""

CLUSTER_LOST = "Ray no longer knows the job: its head was restarted"
RAY_AWAY = "Ray does not answer"
TRANSIENT = "a process of the step died, or memory was short"


@dataclass(frozen=True)
class Cause:
    """A kind of failure that may be gone at the next try, recognised by the message of the failed Ray job."""

    name: str
    pattern: re.Pattern[str]


CAUSES = (
    Cause(
        "the job's process was killed (out of memory, or by hand)",
        re.compile(r"^Job entrypoint command failed with exit code -(?:6|7|9|11|15)\b"),
    ),
    Cause(
        "the node or the process that supervised the job died",
        re.compile(r"^(?:Job supervisor actor died|Unexpected error occurred)"),
    ),
    Cause(
        "the job did not start in time",
        re.compile(
            r"^(?:Job supervisor actor (?:failed to start within|could not be scheduled)|Failed to start superv)"
        ),
    ),
)
"""By the first line of the message. Ray writes it; the lines after it are the end of the job's log."""

ERRORS = (
    Cause(TRANSIENT, re.compile(r"^(?:\w+\.)*TransientError\b")),
    Cause(
        "a node, a worker or an actor of Ray died",
        re.compile(
            r"^(?:ray\.exceptions\.)?(?:NodeDiedError|WorkerCrashedError|ActorDiedError|ActorUnavailableError"
            r"|OutOfMemoryError|OwnerDiedError|ObjectLostError|ObjectReconstructionFailed\w*|RaySystemError"
            r"|LocalRayletDiedError|NodeDied|RpcError)\b"
        ),
    ),
)
"""By the last error that the job printed."""


def cause_of(job: Job, error: str) -> str | None:
    """The cause for which a failed job is tried again; None if a new try would fail in the same way.

    Args:
        job: a job that ended without its artifact.
        error: the last error that it printed, or ''.
    """
    if job.state != "failed":  # stopped by somebody, or ended well without publishing
        return None
    for cause in CAUSES:
        if cause.pattern.match(job.message.lstrip()):
            return cause.name
    return next((cause.name for cause in ERRORS if cause.pattern.match(error)), None)
