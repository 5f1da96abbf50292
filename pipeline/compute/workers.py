"""Run one function on many pieces of work in parallel: threads for few pieces, Ray tasks for many; results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from pipeline.compute import session as ray_session
from pipeline.compute.resources import usable_cpus

Result = TypeVar("Result")
MAX_THREADS = 32
RETRIES = 3  # of a Ray task whose worker died


class Workers(Protocol):
    """Runs function calls in parallel: on threads or as Ray tasks."""

    @property
    def width(self) -> int:
        """Number of calls to keep in flight."""
        ...

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Start a call."""
        ...

    def result(self, handle: Any) -> Any:
        """Wait for a call and return its result; raises the function's own error."""
        ...


class ThreadWorkers:
    """Threads of this process, for work that releases the GIL, such as decoding and hashing."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        self._pool, self._threads = pool, threads

    @property
    def width(self) -> int:
        """Twice the threads."""
        return 2 * self._threads

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Start a call."""
        return self._pool.submit(function, *args)

    def result(self, handle: Any) -> Any:
        """Wait for a call."""
        return handle.result()


class RayWorkers:
    """Ray tasks of one CPU each, on every node."""

    def __init__(self) -> None:
        import ray

        self._ray = ray
        self._tasks: dict[Callable[..., Any], Any] = {}
        self._cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))

    @property
    def width(self) -> int:
        """Twice the cluster's CPUs."""
        return 2 * self._cpus

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Start a call."""
        if function not in self._tasks:
            self._tasks[function] = self._ray.remote(num_cpus=1, max_retries=RETRIES)(function)
        return self._tasks[function].remote(*args)

    def result(self, handle: Any) -> Any:
        """Wait for a call; raises the function's own error, not Ray's RayTaskError."""
        try:
            return self._ray.get(handle)
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error


@contextmanager
def workers_for(size: int, ray_from: int) -> Iterator[Workers]:
    """Workers for `size` pieces: threads below `ray_from`, where starting Ray's workers takes longer than it saves."""
    if size < ray_from:
        threads = min(MAX_THREADS, usable_cpus())
        with ThreadPoolExecutor(threads, thread_name_prefix="workers") as pool:
            try:
                yield ThreadWorkers(pool, threads)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    else:
        with ray_session.session():
            yield RayWorkers()


def ordered(workers: Workers, function: Callable[..., Result], pieces: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    """The function's results for each tuple of arguments, in order; `pieces` is read only as far as needed."""
    pending: deque[Any] = deque()
    for piece in pieces:
        pending.append(workers.submit(function, *piece))
        if len(pending) > workers.width:
            yield workers.result(pending.popleft())
    while pending:
        yield workers.result(pending.popleft())
