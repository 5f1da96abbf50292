"""Work on threads: order, laziness, errors."""

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.compute.workers import ordered, workers_for


def slow_square(number: int) -> int:
    time.sleep(0.002 * (number % 3))
    return number * number


def test_results_come_in_order() -> None:
    with workers_for(1, ray_from=10) as workers:
        assert list(ordered(workers, slow_square, ((n,) for n in range(50)))) == [n * n for n in range(50)]
        assert list(ordered(workers, slow_square, ())) == []


def test_pieces_are_read_only_as_far_as_needed() -> None:
    read: list[int] = []

    def pieces() -> Iterator[tuple[int]]:
        for number in range(10_000):
            read.append(number)
            yield (number,)

    with workers_for(1, ray_from=10) as workers:
        results = ordered(workers, slow_square, pieces())
        assert next(results) == 0
        assert len(read) <= workers.width + 1


def test_an_error_ends_the_work() -> None:
    done: list[int] = []
    lock = threading.Lock()

    def fails_at_five(number: int) -> None:
        if number == 5:
            raise ValueError("five")
        time.sleep(0.001)
        with lock:
            done.append(number)

    with pytest.raises(ValueError, match="five"), workers_for(1, ray_from=10) as workers:
        list(ordered(workers, fails_at_five, ((n,) for n in range(10_000))))
    assert len(done) < 1000
