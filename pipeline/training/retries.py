"""Decides which failures of a stage are worth another run, and when it has failed too often."""

from collections.abc import Iterator

from model.errors import AgevlmError, StepError, TransientError
from pipeline.artifacts.shards import Shards
from pipeline.training.checkpoints.names import sealed_steps

MAX_FAILURES = 2
"""Failures in a row that are retried although no checkpoint was made between them."""
FINAL = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""Errors of the code or of its settings, which the next run raises again. The others may have a cause that is gone: a
collective whose peer died raises RuntimeError, a store that was away OSError."""


class Retries:
    """Counts the failures of a stage since its newest checkpoint.

    A failure after a new checkpoint starts the count again, so a stage on preemptible machines may fail any number of
    times, while one that fails at the same step each time ends.
    """

    def __init__(self, key: str, checkpoints: Shards) -> None:
        self._key, self._checkpoints = key, checkpoints
        self._newest, self._failures = self._step(), 0

    def failed(self, error: StepError) -> None:
        """Count a failure. Raises StepError if there were too many without progress."""
        newest = self._step()
        if newest > self._newest:
            self._failures = 0
        self._newest, self._failures = newest, self._failures + 1
        reason = str(error).partition("\n")[0]  # Ray's errors go on with a traceback, which is in the job's log
        if self._failures > MAX_FAILURES:
            raise StepError(
                f"{self._key}: {self._failures} failures in a row after step {newest}, with no newer checkpoint "
                f"between them; the last one: {reason}; see the job's log"
            ) from error
        print(f"{reason}; trying again from step {newest} ({self._failures} of {MAX_FAILURES})", flush=True)

    def _step(self) -> int:
        return next(iter(sealed_steps(self._checkpoints)), 0)


def failure_of(key: str, error: Exception) -> AgevlmError:
    """The error to raise for the error of Ray Train's `fit`.

    It is the AgevlmError that a worker raised, or a StepError if a worker raised an error of FINAL and none died, or
    else a TransientError. The last two name one worker's failure.
    """
    from ray.exceptions import RayError

    failures: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
    seen = (cause for failure in [*failures.values(), error] for cause in _causes(failure))
    own = next((cause for cause in seen if isinstance(cause, AgevlmError)), None)
    if own is not None:
        return own
    died = any(isinstance(failure, RayError) for failure in failures.values())
    final = None if died else next((item for item in failures.items() if isinstance(item[1], FINAL)), None)
    rank, first = final or next(iter(failures.items()), (None, error))
    where = "" if rank is None else f" on worker {rank}"
    kind = StepError if final else TransientError
    return kind(f"{key}: training failed{where}: {type(first).__name__}: {first}; see the job's log")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__
