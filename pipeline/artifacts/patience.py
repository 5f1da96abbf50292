"""Faults of a store: a write is repeated while the store fails for a while, and a full disk ends the step at once."""

import errno
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from model.errors import AgevlmError, StepError
from pipeline.artifacts.room import FULL, disk_fault, explained

Result = TypeVar("Result")

PASSING = frozenset(
    {
        errno.EIO,
        errno.EREMOTEIO,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ESTALE,
        errno.EPIPE,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
"""errno values of a network disk or an object store that may work again soon. s3fs says EIO for an unknown answer."""
AGAIN = frozenset({408, 409, 425, 429})
"""HTTP statuses below 500 of a request that may succeed when it is made again."""
OUTAGE_SECONDS = 300.0
"""Time that a store may fail before the step ends. s3fs repeats single requests too, for two minutes."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds; each pause is twice the one before


def patiently(what: str, call: Callable[[], Result]) -> Result:
    """The result of a call to the store that gives the same when it is made again.

    Args:
        what: the thing that is written or read, with its path; for messages.

    A fault that may pass is told and the call repeated, for OUTAGE_SECONDS. Raises StepError after that time, or at
    once for a full disk. Other errors are raised as they are.
    """
    until, pause = time.monotonic() + OUTAGE_SECONDS, FIRST_PAUSE
    while True:
        try:
            return call()
        except Exception as error:
            if (fault := disk_fault(error)) is not None and fault.errno in FULL:
                raise StepError(f"{what}: {explained(fault, _paths(what))}") from error
            if not is_passing(error):
                raise
            if time.monotonic() + pause > until:
                raise StepError(
                    f"{what}: the store has failed for {OUTAGE_SECONDS:.0f} s ({error}); committed shards are kept: "
                    "run the step again when the store works"
                ) from error
            print(f"{what}: the store fails ({error}); trying again in {pause:.3g} s", flush=True)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _paths(what: str) -> list[str]:
    """The local path at the end of a thing's name, if there is one."""
    start = what.find("/")
    return [] if start < 0 or "://" in what else [what[start:]]


def is_passing(error: BaseException) -> bool:
    """True if a call that failed with this error, or with our error for it, may succeed when it is made again."""
    if isinstance(error, AgevlmError):
        return not isinstance(error, StepError) and error.__cause__ is not None and is_passing(error.__cause__)
    if not isinstance(error, OSError):
        # s3fs passes on the errors of a request that got no answer.
        botocore = sys.modules.get("botocore.exceptions")
        return botocore is not None and isinstance(error, botocore.ConnectionError | botocore.HTTPClientError)
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):  # an object store's answer says more than the number that stands for it
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        return status >= 500 or status in AGAIN
    return error.errno in PASSING or isinstance(error, ConnectionError | TimeoutError)
