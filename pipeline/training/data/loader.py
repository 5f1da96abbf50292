"""Prepares the micro-batches of the coming steps while the model computes.

Who does what:

- The order is ours, a function of the step (order.py). A background thread reads the rows of the coming micro-batches.
- PyTorch's DataLoader sends them to its worker processes, which decode, resize and collate; it returns the batches in
  order through shared memory, pins them for a GPU, and notices a process that dies. The thread is its `sampler`, and
  collating is the `__getitem__` of its data set, so it takes rows and not numbers.

torchdata's StatefulDataLoader keeps a state in each of its worker processes, which another number of processes cannot
take over. Here nothing has a state: a loader that starts at any step, with any number of processes, gives what the
undisturbed one would have given.
"""

import multiprocessing
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from model.errors import AgevlmError, TransientError
from pipeline.training.data.batches import Batch, Collator
from pipeline.training.data.order import Address, SampleOrder
from pipeline.training.data.pack_reader import PackReader, PackRow

PRELOADED = (
    "torch.utils.data",
    "transformers.image_processing_utils",
    "pipeline.training.data.loader",
    "model.agevlm.image_processing_agevlm",
)
"""Modules that the fork server imports once, for all loader processes; where it does not find one, they import it."""
CPU = torch.device("cpu")
ROWS_AHEAD = 4
"""Micro-batches whose rows are read ahead of the loader processes."""
Item = TypeVar("Item")


def micro_batches(
    order: SampleOrder, reader: PackReader, rank: int, workers: int, micro_batch: int, step: int
) -> list[list[Address]]:
    """A worker's micro-batches of a step. All workers have the same number of them; one may be empty.

    A worker's rows are sorted by length before they are cut, so that rows of a micro-batch have similar lengths.
    """
    mine = order.slice(step, rank, workers)
    lengths = {shard: reader.index.lengths(shard) for shard in {address.shard for address in mine}}
    mine.sort(key=lambda address: int(lengths[address.shard][address.row]))
    count = micro_batch_count(order, workers, micro_batch, step)
    return [mine[i * len(mine) // count : (i + 1) * len(mine) // count] for i in range(count)]


def micro_batch_count(order: SampleOrder, workers: int, micro_batch: int, step: int) -> int:
    """Micro-batches of each worker in a step."""
    largest = -(-(order.seen(step + 1) - order.seen(step)) // workers)
    return -(-largest // micro_batch)


def loaded(
    order: SampleOrder,
    reader: PackReader,
    collate: Collator,
    rank: int,
    workers: int,
    micro_batch: int,
    start: int,
    processes: int = 0,
    read_ahead: int = 2,
    device: torch.device = CPU,
) -> Iterator[list[Batch]]:
    """The micro-batches of each step from `start` on, made ahead of time; on the CPU, in pinned memory for a GPU.

    Args:
        processes: loader processes; 0 for a thread of this process.
        read_ahead: micro-batches that each process (or the thread) makes ahead of time.
        device: where the batches will go.

    Closing the generator ends the threads and processes.
    Raises DataError for a damaged pack or image, TransientError if a loader process dies.
    """
    rows = (
        reader.rows(part)
        for step in range(start, order.steps)
        for part in micro_batches(order, reader, rank, workers, micro_batch, step)
    )
    if processes:
        batches = _by_processes(rows, collate, processes, read_ahead, device)
    else:
        batches = prefetched(_by_this_thread(rows, collate, device), read_ahead)
    with closing(batches):  # type: ignore[type-var]
        for step in range(start, order.steps):
            yield [next(batches) for _ in range(micro_batch_count(order, workers, micro_batch, step))]


def _by_this_thread(rows: Iterable[list[PackRow]], collate: Collator, device: torch.device) -> Iterator[Batch]:
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of this thread: memory is pinned for the current device
    for part in rows:
        batch = collate(part)
        yield batch.pin_memory() if device.type == "cuda" else batch


def _by_processes(
    rows: Iterator[list[PackRow]], collate: Collator, processes: int, read_ahead: int, device: torch.device
) -> Iterator[Batch]:
    # Not fork: this process has threads (Ray, Arrow, torch), and a lock that one of them holds stays locked in a fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    read = prefetched(rows, ROWS_AHEAD)
    loader: DataLoader[Any] = DataLoader(
        _Collating(collate),
        batch_size=None,
        sampler=read,
        num_workers=processes,
        prefetch_factor=read_ahead,
        collate_fn=_as_it_is,
        worker_init_fn=_end_with_parent,
        pin_memory=device.type == "cuda",
        multiprocessing_context=context,
        generator=torch.Generator(),  # else it draws from the generator of the model's random numbers
    )
    with closing(read):  # type: ignore[type-var]
        batches = iter(loader)
        try:
            for answer in batches:
                if isinstance(answer, AgevlmError):
                    raise answer
                yield answer.batch() if isinstance(answer, _Sent) else answer
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise TransientError(
                f"a loader process died: {error}; if the machine was out of memory, set training's loader_processes or "
                "read_ahead lower, or give the workers more memory"
            ) from error
        finally:
            batches._shutdown_workers()  # type: ignore[attr-defined]  # else they live until the garbage collection


class _Collating(Dataset[Any]):
    """The data set of a loader process: its 'indices' are rows."""

    def __init__(self, collate: Collator) -> None:
        self._collate = collate

    def __getitem__(self, rows: Sequence[PackRow]) -> Any:
        try:
            return _Sent.of(self._collate(rows))
        except AgevlmError as error:
            return error  # raised there, it would arrive as a traceback in a message


@dataclass(frozen=True)
class _Sent:
    """A batch on its way from a loader process.

    Each tensor in shared memory takes a file descriptor, and hundreds of batches may be on their way. So only the
    pixels travel as a tensor.
    """

    content: Batch
    arrays: dict[str, np.ndarray[Any, Any]]

    @classmethod
    def of(cls, batch: Batch) -> "_Sent":
        small = {
            f.name: value.numpy()
            for f in fields(batch)
            if f.name != "pixels" and isinstance(value := getattr(batch, f.name), torch.Tensor)
        }
        return cls(replace(batch, **dict.fromkeys(small)), small)  # type: ignore[arg-type]

    def batch(self) -> Batch:
        """The batch with all its tensors."""
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        return replace(self.content, **tensors)

    def pin_memory(self, device: object = None) -> Batch:
        """The batch in pinned memory; the DataLoader's pinning thread calls this."""
        return self.batch().pin_memory()


def _end_with_parent(number: int) -> None:
    """End this loader process when the training process dies, also by kill -9.

    PyTorch's watchdog looks at the parent's pid. That is the fork server's, which lives as long as its processes do.
    """

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _as_it_is(answer: Any) -> Any:
    return answer


def prefetched(items: Iterator[Item], depth: int = 2) -> Iterator[Item]:
    """The same items, made ahead of time by one background thread. An error in the thread is raised here.

    The thread ends when the consumer stops early (closes the generator).
    """
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    end = object()

    def put(failed: bool, value: Any) -> bool:
        # With a timeout: when the consumer stops, the queue may stay full, and a blocking put would never return.
        while not stop.is_set():
            try:
                ready.put((failed, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put(False, item):
                    return
            put(False, end)
        except BaseException as error:
            put(True, error)

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            failed, value = ready.get()
            if failed:
                raise value
            if value is end:
                return
            yield value
    finally:
        stop.set()
        thread.join()
