"""Calls that may not come back."""

import threading
import time

import pytest

from flows.run.bounded import wait_at_most, within


def test_a_call_gives_its_result_or_its_error() -> None:
    assert within(10, lambda: 3) == 3
    assert within(10, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        within(10, lambda: 1 // 0)


def test_a_call_that_hangs_is_left() -> None:
    hang, started = threading.Event(), time.monotonic()
    with pytest.raises(OSError, match=r"no answer for 0\.1 s"):
        within(0.1, lambda: hang.wait(60))
    threads = [threading.Thread(target=hang.wait, args=(60,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_at_most(threads, 0.1)
    assert all(thread.is_alive() for thread in threads)
    assert time.monotonic() - started < 20
    hang.set()
    wait_at_most(threads, 20)
    assert not any(thread.is_alive() for thread in threads)
