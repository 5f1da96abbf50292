"""Batches of a teacher's rows: halved when memory runs out, and row by row when a row is at fault.

The batches depend on the input and the settings only. Running out of memory is the exception: then the batches that
were really computed are reported, because other batches change the last bits of results.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

OUT_OF_MEMORY: Final = "out_of_memory"
REASON_LENGTH: Final = 300  # characters of an error's message that are kept
CPU_ALLOCATOR: Final = "DefaultCPUAllocator"  # on a CPU, torch raises a bare RuntimeError with this in its message


def reason_of(error: Exception) -> str:
    """An error in one line: its class and message."""
    if is_out_of_memory(error):
        return f"{OUT_OF_MEMORY}: even a batch of one row does not fit"
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}"[:REASON_LENGTH]


def skip_errors(
    rows: Sequence[Item | Exception], compute: Callable[[list[Item]], list[Result | Exception]]
) -> list[Result | Exception]:
    """Compute the rows that are not errors; errors keep their places."""
    results = iter(compute([row for row in rows if not isinstance(row, Exception)]))
    return [row if isinstance(row, Exception) else next(results) for row in rows]


def in_batches(
    items: Sequence[Item], size: int, compute: Callable[[list[Item]], Sequence[Result]], sizes: list[int]
) -> list[Result | Exception]:
    """Compute items in batches of `size`; appends the size of every batch that succeeded to `sizes`.

    A batch that runs out of memory is halved; one that fails otherwise is computed row by row, so that only the row
    at fault fails. A row that fails alone gives its exception.
    """

    def run(batch: list[Item]) -> list[Result | Exception]:
        try:
            results = list(compute(batch))
        except Exception as error:
            if len(batch) == 1:
                return [error]
            part = (len(batch) + 1) // 2 if is_out_of_memory(error) else 1
        else:
            sizes.append(len(batch))
            return [*results]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # outside 'except': the traceback would keep the batch's tensors alive
        return [result for start in range(0, len(batch), part) for result in run(batch[start : start + part])]

    found: list[Result | Exception] = []
    for start in range(0, len(items), max(size, 1)):
        found.extend(run(list(items[start : start + size])))
    return found


def is_out_of_memory(error: Exception) -> bool:
    """True if an error says that memory ran out, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_ALLOCATOR in str(error)
