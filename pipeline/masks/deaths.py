"""Errors of Ray that say that a process or machine died, apart from errors that the work raised. Imports Ray."""

import re

from ray import exceptions

DEATHS = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.OutOfMemoryError,  # Ray's memory monitor killed the process
    exceptions.LocalRayletDiedError,
    exceptions.RaySystemError,
)
RAISED = re.compile(r"^[\w.]+(Error|Exception|Exit|Died|Crashed)\w*: ")  # last line of a traceback
WIDER = (
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.LocalRayletDiedError,
    exceptions.RaySystemError,
)
"""Deaths of more than the process that did the work."""
NODE = "node has died"  # so Ray says that an actor ended with its machine
OURS = "model.errors."
CAUSE_LENGTH = 1000  # characters


def is_death(error: BaseException) -> bool:
    """True if a process died and no error of the work is the cause, so that the work may be tried again."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, exceptions.RayActorError) and seen.actor_init_failed:
            return False  # its constructor raised an error, and would again
        if isinstance(seen, DEATHS):
            return not any(line.startswith(OURS) for line in _raised(error))
        seen = getattr(seen, "cause", None) or seen.__cause__
    return False


def is_wider(error: BaseException) -> bool:
    """True if a machine or Ray itself died, so that the death says nothing about the work of one process."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, WIDER) or NODE in str(seen) or getattr(seen, "preempted", False):
            return True
        seen = getattr(seen, "cause", None) or seen.__cause__
    return False


def cause(error: BaseException) -> str:
    """The first error of a worker in one line. Ray passes errors on as the text of a traceback."""
    raised = _raised(error)
    ours = [line for line in raised if line.startswith(OURS)]
    return (ours or raised or [f"{type(error).__name__}: {' '.join(str(error).split())}"])[0][:CAUSE_LENGTH]


def _raised(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if RAISED.match(line.strip())]
