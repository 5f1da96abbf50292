"""Find NaN and infinite numbers in a file of weights while it is read for another purpose, such as its checksum."""

from collections.abc import Iterable
from typing import IO, Any

import numpy as np

from model.teachers.weights.header import ITEM_BYTES, Header, Tensor

EXPONENTS: dict[str, tuple[np.dtype[Any], int]] = {
    "F64": (np.dtype("<u8"), 0x7FF0_0000_0000_0000),
    "F32": (np.dtype("<u4"), 0x7F80_0000),
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
}
"""Type of a tensor -> unsigned numbers of its size, and the bits of the exponent: all are 1 in NaN and infinity."""


class FiniteCheck:
    """Looks at the numbers of a file that passes by in pieces of any size. Keeps at most one number of each tensor."""

    def __init__(self, header: Header) -> None:
        numbers = {(t.start, t.size, t.dtype): (name, t) for name, t in header.tensors.items() if t.dtype in EXPONENTS}
        self._tensors = sorted(numbers.values(), key=lambda item: item[1].start)
        self._rests: dict[str, bytes] = {}
        self._first, self._position = 0, 0
        self.bad: str | None = None
        """The first tensor in the file that has NaN or an infinite number; None if there is none so far."""

    def feed(self, piece: bytes) -> None:
        """Look at the next bytes of the file."""
        start, end = self._position, self._position + len(piece)
        self._position = end
        while self._first < len(self._tensors) and _end(self._tensors[self._first]) <= start:
            self._first += 1
        for name, tensor in self._now(end):
            low, high = max(tensor.start, start), min(tensor.start + tensor.size, end)
            if self.bad is None and low < high:
                self._look(name, tensor.dtype, piece[low - start : high - start])

    def _now(self, end: int) -> Iterable[tuple[str, Tensor]]:
        for name, tensor in self._tensors[self._first :]:
            if tensor.start >= end:
                return
            yield name, tensor

    def _look(self, name: str, dtype: str, piece: bytes) -> None:
        content = self._rests.pop(name, b"") + piece
        whole = len(content) - len(content) % ITEM_BYTES[dtype]
        if whole < len(content):
            self._rests[name] = content[whole:]
        unsigned, exponent = EXPONENTS[dtype]
        bits = np.frombuffer(content, unsigned, whole // unsigned.itemsize)
        if ((bits & unsigned.type(exponent)) == exponent).any():
            self.bad = name


class Watched:
    """A binary file whose bytes are shown to a check as they are read from its beginning to its end."""

    def __init__(self, stream: IO[bytes], check: FiniteCheck) -> None:
        self._stream, self._check = stream, check

    def read(self, count: int = -1) -> bytes:
        """The next bytes."""
        piece = self._stream.read(count)
        self._check.feed(piece)
        return piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _end(item: tuple[str, Tensor]) -> int:
    return item[1].start + item[1].size
