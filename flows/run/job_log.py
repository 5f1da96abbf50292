"""The log of a Ray job: forwarded while the job runs, and the error that it ended with."""

import re
import threading
import time
from collections.abc import Callable
from itertools import takewhile

from flows.run.ray_jobs import JobClient

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
ERROR_LINE = re.compile(r"^(?:[\w.]*\.)?\w*(?:Error|Exception|Killed)\b:? ?")
Log = Callable[[str], None]


class LogTail:
    """Forwards a job's output to the step's log in batches, in a background thread."""

    def __init__(self, client: JobClient, job: str, log: Log) -> None:
        self._client, self._job, self._log = client, job, log
        self._thread = threading.Thread(target=self._pump, name=f"log of {job}", daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        forwarded = 0
        for attempt in range(5):  # a dropped connection costs no line: the next one skips what was forwarded
            seen = 0
            try:
                for piece in self._client.tail(self._job):
                    fresh = piece[max(0, forwarded - seen) :]
                    seen += len(piece)
                    if fresh:
                        forwarded += len(fresh)
                        self._forward(fresh)
                return
            except Exception as error:  # of many types; a lost log must not fail the step
                if attempt == 4:
                    self._log(f"the log of {self._job} can no longer be followed ({error}); see its page")
                time.sleep(1.0)

    def _forward(self, text: str) -> None:
        clean = ANSI.sub("", text).rstrip("\n")
        if clean.strip():
            self._log(clean)

    def close(self, seconds: float) -> None:
        """Wait a little for the last lines."""
        self._thread.join(seconds)


def error_text(message: str) -> str:
    """The last error in the message of a failed job, with its indented lines; '' if there is none.

    Ray's message ends with the last lines of the job's log.
    """
    lines = ANSI.sub("", message).split("\n")
    for number in range(len(lines) - 1, -1, -1):
        if ERROR_LINE.match(lines[number]):
            rest = list(takewhile(lambda line: line[:1].isspace(), lines[number + 1 :]))
            return "\n".join([lines[number].strip(), *rest])[:2000]
    return ""
