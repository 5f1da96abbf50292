"""Waiting for a bounded time: for threads, and for a call that may not come back."""

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

Value = TypeVar("Value")


def wait_at_most(threads: Iterable[threading.Thread], seconds: float) -> None:
    """Wait until all threads have ended, or for so many seconds."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def within(seconds: float, call: Callable[[], Value]) -> Value:
    """The result of a call, made in another thread; what it raises is raised here.

    Raises TimeoutError, which is an OSError, if it takes longer. Then it goes on, and its result is lost.
    """
    answers: queue.SimpleQueue[tuple[Value | None, BaseException | None]] = queue.SimpleQueue()

    def make() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=make, name="bounded call", daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer for {seconds:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
