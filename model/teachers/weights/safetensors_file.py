"""The header of a .safetensors file: 8 bytes with its length, then JSON."""

import json
import math
import struct
from typing import Any

from model.errors import ConfigError
from model.teachers.weights.header import ITEM_BYTES, Bounded, Header, Tensor

LENGTH_BYTES = 8
MOST_AXES = 16


def looks_like(head: bytes) -> bool:
    """True for the first bytes of a .safetensors file: a length, then an object of JSON."""
    return len(head) > LENGTH_BYTES and head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"


def read(file: Bounded) -> Header:
    """The header of a file. Raises ConfigError if it is damaged, or if bytes are missing at the end of the file."""
    (length,) = struct.unpack("<Q", file.read(LENGTH_BYTES))
    if length > file.size - LENGTH_BYTES:
        raise ConfigError(f"its header says that it has {length:,} bytes, but the file has {file.size:,}")
    try:
        fields = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"its header is damaged ({str(error)[:80]})") from error
    if not isinstance(fields, dict):
        raise ConfigError("its header is damaged (no object of JSON)")
    data = LENGTH_BYTES + length
    fields.pop("__metadata__", None)
    tensors = {name: _tensor(name, field, data) for name, field in fields.items()}
    end = data
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size)):
        if tensor.start != end:  # as the library demands: no tensor lies over another, and none has a gap before it
            raise ConfigError(f"its header is damaged (the place of tensor {name[:80]})")
        end += tensor.size
    if end != file.size:
        raise ConfigError(f"it has {file.size:,} bytes and should have {end:,}; the download was cut off or is damaged")
    return Header(tensors, "safetensors")


def _tensor(name: str, field: Any, data: int) -> Tensor:
    try:
        dtype, shape, (start, end) = field["dtype"], tuple(field["shape"]), field["data_offsets"]
        sound = all(type(number) is int and number >= 0 for number in (*shape, start, end)) and start <= end
        if sound and dtype in ITEM_BYTES:
            sound = math.prod(shape) * ITEM_BYTES[dtype] == end - start
    except (TypeError, KeyError, ValueError) as error:
        raise ConfigError(f"its header is damaged (tensor {name[:80]})") from error
    if not sound or not isinstance(dtype, str) or len(shape) > MOST_AXES:
        raise ConfigError(f"its header is damaged (tensor {name[:80]})")
    return Tensor(dtype, shape, data + start, end - start)
