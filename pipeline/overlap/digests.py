"""The keys by which records are compared: the content of a record, and the checksum of its image."""

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

CONTENT = pa.binary(16)
IMAGE = pa.binary(32)


@dataclass(frozen=True)
class _Texts:
    """A text column as Arrow stores it: all texts in one buffer."""

    data: memoryview
    starts: list[int]
    """Byte at which each text starts, and the end of the last one."""
    lengths: memoryview
    """Length of each text in bytes, 4 bytes each."""

    @classmethod
    def of(cls, column: pa.StringArray) -> Self:
        """The texts of a column without missing values."""
        _, offsets, data = column.buffers()
        starts = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        return cls(memoryview(data or b""), starts.tolist(), memoryview(np.diff(starts).astype("<i4").tobytes()))

    def of_turns(self, first: int, last: int) -> tuple[memoryview, memoryview]:
        """Lengths and bytes of the texts [first, last)."""
        return self.lengths[4 * first : 4 * last], self.data[self.starts[first] : self.starts[last]]


def content_digests(images: pa.StringArray, turns: pa.ListArray) -> pa.FixedSizeBinaryArray:
    """A 16-byte digest of each record's picture and turns; paths and ids do not enter it.

    Args:
        images: checksum of each record's image file, null for text-only records (RECORDS.image_sha256).
        turns: question and answer of each turn (RECORDS.turns).
    """
    # Texts are hashed as slices of Arrow's buffers, without a Python object per turn. The number of turns and the
    # lengths of their texts are hashed too, so that texts which are divided into other turns have another digest.
    bounds = turns.offsets.to_numpy().tolist()
    questions, answers = (_Texts.of(turns.values.field(name)) for name in ("question", "answer"))
    digests = []
    for number, image in enumerate(images.to_pylist()):
        first, last = bounds[number], bounds[number + 1]
        head = f"{image or ''}:{last - first}:".encode()
        parts = (head, *questions.of_turns(first, last), *answers.of_turns(first, last))
        digests.append(hashlib.blake2b(b"".join(parts), digest_size=CONTENT.byte_width).digest())
    return _fixed(CONTENT, b"".join(digests))


def image_keys(images: pa.StringArray) -> pa.FixedSizeBinaryArray:
    """Checksums of images (hexadecimal, without nulls) as 32 bytes each."""
    return _fixed(IMAGE, bytes.fromhex("".join(images.to_pylist())))


def _fixed(kind: pa.FixedSizeBinaryType, content: bytes) -> pa.FixedSizeBinaryArray:
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(content) // kind.byte_width, [None, pa.py_buffer(content)])


def leading(keys: pa.FixedSizeBinaryArray) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """The first 32 bits of each key as a number; keys are hashes, so these numbers are spread evenly."""
    width = keys.type.byte_width
    content = np.frombuffer(keys.buffers()[1], np.uint8)[keys.offset * width : (keys.offset + len(keys)) * width]
    return np.ascontiguousarray(content.reshape(-1, width)[:, :4]).view(">u4").reshape(-1).astype(np.uint32)
