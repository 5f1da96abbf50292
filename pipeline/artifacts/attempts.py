"""The attempts of a spec: `refs/<spec hash>/<n>.json` says that attempt n was issued; the largest n is the current one.

An attempt is issued by creating its object, only if absent, so two writers never issue the same one. An older format,
one rewritten object `refs/<spec hash>.json`, is still read.
"""

import uuid
from datetime import UTC, datetime
from typing import Any

from model.errors import ArtifactError
from pipeline.artifacts.numbered import Numbered
from pipeline.artifacts.spec import StepSpec, parsed

REFS = "refs"


class Attempts:
    """The attempts of one spec.

    Args:
        fs: the store's file system.
        base: full path of the store's root.
        spec: the spec.
    """

    def __init__(self, fs: Any, base: str, spec: StepSpec) -> None:
        self._fs, self._step = fs, spec.step
        self._old = f"{base}/{REFS}/{spec.hash}.json"
        self._issued = Numbered(fs, f"{base}/{REFS}/{spec.hash}")

    def current(self) -> int:
        """The current attempt: 0 unless one was issued."""
        return max(self._issued.current(), self._earlier_format())

    def issue(self, attempt: int) -> bool:
        """Issue this attempt. Returns False if it was issued before, by this caller or another one."""
        return attempt > self._earlier_format() and self._issued.create(attempt, self._value(attempt))

    def issue_next(self) -> int:
        """Issue an attempt that no other caller gets, and return it."""
        attempt = self.current() + 1
        while not self._issued.create(attempt, self._value(attempt)):
            attempt += 1
        return attempt

    def _value(self, attempt: int) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        # The token makes each caller's object different: equal ones would count as issued by both.
        return {"attempt": attempt, "step": self._step, "issued": now, "token": uuid.uuid4().hex}

    def _earlier_format(self) -> int:
        try:
            return int(parsed(self._fs.cat_file(self._old))["attempt"])
        except FileNotFoundError:
            return 0
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(
                f"{self._old} is damaged ({error}): it says which attempt of the step '{self._step}' is the current "
                'one; write {"attempt": N} into it, or move it away if the step was never forced'
            ) from error
