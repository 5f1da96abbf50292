"""Run one function on many pieces of work in parallel: threads for few pieces, Ray tasks for many; results in order.

A step says in its resources how many calls may run at once (`workers`) and the CPUs of each (`cpus`). No more run, so
that the rest of the cluster is free for other steps.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from pipeline.compute import session as ray_session
from pipeline.compute.resources import Resources

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
    """Ray tasks, on every node.

    Args:
        resources: `workers` is the number of tasks that run at once, `cpus` the CPUs that each asks Ray for.
    """

    def __init__(self, resources: Resources) -> None:
        import ray

        self._ray, self._resources = ray, resources
        self._tasks: dict[Callable[..., Any], Any] = {}
        self._unfinished: list[Any] = []

    @property
    def width(self) -> int:
        """Twice the tasks that run at once: a task can start while an earlier, slower one holds back the results."""
        return 2 * self._resources.workers

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Start a call; waits until fewer than `workers` calls are unfinished."""
        if len(self._unfinished) >= self._resources.workers:
            _, self._unfinished = self._ray.wait(self._unfinished, num_returns=1, fetch_local=False)
        if function not in self._tasks:
            options = {"num_cpus": self._resources.cpus, "max_retries": RETRIES}
            self._tasks[function] = self._ray.remote(**options)(function)
        handle = self._tasks[function].remote(*args)
        self._unfinished.append(handle)
        return handle

    def result(self, handle: Any) -> Any:
        """Wait for a call; raises the function's own error, not Ray's RayTaskError."""
        try:
            return self._ray.get(handle)
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error


@contextmanager
def workers_for(size: int, ray_from: int, resources: Resources) -> Iterator[Workers]:
    """Workers for `size` pieces, within a step's resources.

    Threads below `ray_from`, where starting Ray's workers takes longer than it saves: one for each CPU of the step.
    """
    if size < ray_from:
        threads = min(MAX_THREADS, max(1, math.floor(resources.workers * resources.cpus)))
        with ThreadPoolExecutor(threads, thread_name_prefix="workers") as pool:
            try:
                yield ThreadWorkers(pool, threads)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    else:
        with ray_session.session():
            yield RayWorkers(resources)


def ordered(workers: Workers, function: Callable[..., Result], pieces: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    """The function's results for each tuple of arguments, in order; `pieces` is read only as far as needed."""
    pending: deque[Any] = deque()
    for piece in pieces:
        pending.append(workers.submit(function, *piece))
        if len(pending) > workers.width:
            yield workers.result(pending.popleft())
    while pending:
        yield workers.result(pending.popleft())
