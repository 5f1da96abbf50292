"""The header of a file of weights: the name, shape, type and place of each tensor."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from model.errors import ConfigError

HEADER_BYTES = 16 * 2**20
"""Most bytes that are read of a file to know its header. SAM ViT-H's header has 0.2 MB."""
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
}  # fmt: skip
"""Type of a tensor, as safetensors writes it -> bytes of a number."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Types of weights that are read; others are those of quantized weights."""


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file, unread."""

    dtype: str
    """A key of ITEM_BYTES."""
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""
    size: int
    """Bytes, of which the first belong to its first number."""


@dataclass(frozen=True)
class Header:
    """The tensors of a file, by name."""

    tensors: Mapping[str, Tensor]
    format: str
    """'safetensors' or 'torch zip'."""
    skipped: int = 0
    """Characters of a wrapper's prefix that were taken from each name, as 'module.'."""
    wrapper: str | None = None
    """The key under which a checkpoint holds the tensors, as 'model'; None if they are at the top."""


class Bounded:
    """A binary file of which only a limited number of bytes can be read. Seekable, so that zipfile can use it."""

    def __init__(self, stream: IO[bytes], limit: int = HEADER_BYTES) -> None:
        self._stream, self._left = stream, limit
        self.size = os.fstat(stream.fileno()).st_size

    def read(self, count: int = -1) -> bytes:
        """At most `count` bytes; all that are left if it is negative. Raises ConfigError beyond the limit."""
        here = self._stream.tell()
        wanted = max(self.size - here, 0) if count is None or count < 0 else min(count, max(self.size - here, 0))
        if wanted > self._left:
            raise ConfigError(f"its header has more than {HEADER_BYTES // 2**20} MB, so it is damaged or no weights")
        self._left -= wanted
        return self._stream.read(wanted)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file's."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As a file's."""
        return self._stream.tell()

    def seekable(self) -> bool:
        """True."""
        return True
