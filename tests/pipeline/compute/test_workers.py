"""Work on threads: order, laziness, errors."""

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.compute.resources import Resources
from pipeline.compute.workers import ordered, workers_for

TWO = Resources(cpus=1, workers=2)


def slow_square(number: int) -> int:
    time.sleep(0.002 * (number % 3))
    return number * number


def test_results_come_in_order() -> None:
    with workers_for(1, ray_from=10, resources=TWO) as workers:
        assert list(ordered(workers, slow_square, ((n,) for n in range(50)))) == [n * n for n in range(50)]
        assert list(ordered(workers, slow_square, ())) == []


def test_pieces_are_read_only_as_far_as_needed() -> None:
    read: list[int] = []

    def pieces() -> Iterator[tuple[int]]:
        for number in range(10_000):
            read.append(number)
            yield (number,)

    with workers_for(1, ray_from=10, resources=TWO) as workers:
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

    with pytest.raises(ValueError, match="five"), workers_for(1, ray_from=10, resources=TWO) as workers:
        list(ordered(workers, fails_at_five, ((n,) for n in range(10_000))))
    assert len(done) < 1000


@pytest.mark.parametrize(
    ("cpus", "workers", "most"), [(1, 1, 1), (1, 3, 3), (2, 2, 4), (0.5, 4, 2), (0.1, 1, 1), (100, 2, 32)]
)
def test_no_more_threads_work_than_the_step_declares(cpus: float, workers: int, most: int) -> None:
    lock, running, peak = threading.Lock(), 0, 0

    def work(number: int) -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    with workers_for(1, ray_from=10, resources=Resources(cpus=cpus, workers=workers)) as pool:
        list(ordered(pool, work, ((n,) for n in range(8 * most))))
    assert peak == most
