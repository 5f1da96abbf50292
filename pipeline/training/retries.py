"""Decides when a stage that failed is run again, and when it has failed too often."""

from model.errors import StepError
from pipeline.artifacts.shards import Shards
from pipeline.training.checkpoints.names import sealed_steps

MAX_FAILURES = 2
"""Failures in a row that are retried although no checkpoint was made between them."""


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
