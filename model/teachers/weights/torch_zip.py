"""The header of a .pth file as torch.save writes it: a zip with a pickle of the names, and one record a storage."""

import struct
import zipfile
from dataclasses import dataclass
from typing import IO, Any, cast

from model.errors import ConfigError
from model.teachers.weights import pickle_reader
from model.teachers.weights.header import ITEM_BYTES, Bounded, Header, Tensor
from model.teachers.weights.unwrap import unwrap

PICKLE = "data.pkl"
LOCAL_HEADER = struct.Struct("<4s22xHH")
STORAGES = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL",
}  # fmt: skip
"""torch.NAMEStorage -> type of its numbers."""
MOST_ENTRIES = 100_000
MOST_OVERLAP = 4
"""Tensors may share a record, but all together are at most this many times the file."""
MOST_PICKLE = 4 * 2**20
"""Bytes. SAM ViT-H's pickle has 0.1 MB."""


@dataclass(frozen=True)
class StorageType:
    """Stands for torch.FloatStorage and its like."""

    dtype: str


@dataclass(frozen=True)
class Storage:
    """Stands for a storage: one record of the zip."""

    dtype: str
    key: str
    numbers: int


@dataclass(frozen=True)
class View:
    """Stands for a tensor: a part of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def span(self) -> int:
        """Numbers from the first to the last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((count - 1) * step for count, step in zip(self.shape, self.stride, strict=True))


def looks_like(head: bytes) -> bool:
    """True for the first bytes of a zip."""
    return head.startswith(b"PK\x03\x04")


def read(file: Bounded) -> Header:
    """The header of a file. Raises ConfigError if it is damaged, cut off, or holds something else than tensors."""
    try:
        with zipfile.ZipFile(cast(IO[bytes], file)) as archive:
            return _read(archive, file)
    except (zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise ConfigError("it is a zip without its end; the download was cut off or is damaged") from error
    except (NotImplementedError, struct.error, OverflowError, UnicodeError, ValueError, EOFError, OSError) as error:
        raise ConfigError(f"it is a damaged zip ({type(error).__name__})") from error
    except RuntimeError as error:  # zipfile's error for an encrypted record
        raise ConfigError("it is a zip with encrypted records") from error


def _read(archive: zipfile.ZipFile, file: Bounded) -> Header:
    entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()[:MOST_ENTRIES]}
    pickle = entries.get(PICKLE)
    if pickle is None:
        raise ConfigError("it is a zip, but not of torch.save (it has no data.pkl)")
    order = entries.get("byteorder")
    if order is not None and _content(archive, order, 16) != b"little":
        raise ConfigError("its numbers are big-endian")
    found = pickle_reader.read(_content(archive, pickle, MOST_PICKLE), NAMES, _storage)
    views, wrapper, prefix = unwrap(found, View)
    places: dict[str, int] = {}
    for view in views.values():
        key = view.storage.key
        if key not in places:
            places[key] = _place(entries.get(f"data/{key}"), view.storage, file)
    tensors = {name: _tensor(name, view, places[view.storage.key]) for name, view in views.items()}
    if sum(tensor.size for tensor in tensors.values()) > MOST_OVERLAP * file.size:
        raise ConfigError("its tensors overlap")
    return Header(tensors, "torch zip", prefix, wrapper)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """A record's bytes, at most `limit`: a few bytes of a zip can become terabytes."""
    with archive.open(entry) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ConfigError(f"its record {entry.filename[:80]} has more than {limit:,} bytes")
    return content


def _place(entry: zipfile.ZipInfo | None, storage: Storage, file: Bounded) -> int:
    """First byte of a storage's record in the file. torch maps records into memory, so none is compressed."""
    if entry is None:
        raise ConfigError(f"its record data/{storage.key[:40]} is missing")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise ConfigError("its records are compressed, as no torch.save writes them; get the original file")
    if entry.file_size != storage.numbers * ITEM_BYTES[storage.dtype]:
        raise ConfigError(f"its record data/{storage.key[:40]} has another size than its tensor")
    file.seek(entry.header_offset)
    magic, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    start: int = entry.header_offset + LOCAL_HEADER.size + name + extra
    if magic != b"PK\x03\x04" or start + entry.file_size > file.size:
        raise ConfigError(f"its record data/{storage.key[:40]} is damaged")
    return start


def _tensor(name: str, view: View, start: int) -> Tensor:
    size = ITEM_BYTES[view.storage.dtype]
    if view.offset + view.span > view.storage.numbers:
        raise ConfigError(f"its tensor {name[:80]} is larger than its record")
    return Tensor(view.storage.dtype, view.shape, start + view.offset * size, view.span * size)


def _count(value: Any) -> int:
    return _counts((value,))[0]


def _counts(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > 64 or not all(type(v) is int and v >= 0 for v in values):
        raise ValueError("no sizes")
    return values


def _storage(identity: Any) -> Storage:
    kind, storage_type, key, _, numbers = identity
    if kind != "storage" or not isinstance(storage_type, StorageType) or not isinstance(key, str):
        raise ValueError("no storage")
    return Storage(storage_type.dtype, key, _count(numbers))


def _tensor_of(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> View:
    if not isinstance(storage, Storage) or len(_counts(shape)) != len(_counts(stride)):
        raise ValueError("no tensor")
    return View(storage, _count(offset), shape, stride)


def _parameter(data: Any, *_: Any) -> View:
    if not isinstance(data, View):
        raise ValueError("no parameter")
    return data


def _ordered(*items: Any) -> dict[Any, Any]:
    if items:
        raise ValueError("an OrderedDict with arguments")
    return {}


NAMES: dict[str, Any] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor_v2": _tensor_of,
    "torch._utils._rebuild_parameter": _parameter,
    **{f"torch.{name}Storage": StorageType(dtype) for name, dtype in STORAGES.items()},
}
"""The names that a pickle of tensors has, and what stands for them here."""
