"""A damaged or hostile file of weights is a ConfigError or the same weights; never another error, and never slow."""

import functools
import io
import json
import math
import pickle
import resource
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from model.errors import ConfigError
from model.teachers.weights.files import read_header
from model.teachers.weights.header import Header

SHAPES = {"mask_decoder.a": (2, 3), "mask_decoder.b": (4,), "image_encoder.c": (2, 2)}


@functools.cache
def sound(suffix: str) -> bytes:
    """A small file of weights."""
    state = {name: torch.arange(float(math.prod(shape))).view(shape) for name, shape in SHAPES.items()}
    buffer = io.BytesIO()
    if suffix == ".pth":
        torch.save({"model": state}, buffer)
        return buffer.getvalue()
    return save(state)


def header_or_refusal(content: bytes, suffix: str) -> Header | None:
    """The header of a file; None if it is refused. Any other error is raised."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        try:
            return read_header(path)
        except ConfigError:
            return None


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@settings(max_examples=40)
@given(data=st.data())
def test_flipped_and_missing_bytes(suffix: str, data: st.DataObject) -> None:
    content = bytearray(sound(suffix))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    found = header_or_refusal(cut, suffix)
    if cut == sound(suffix):
        assert found is not None
        assert {name: tensor.shape for name, tensor in found.tensors.items()} == SHAPES
    if len(cut) < len(sound(suffix)):
        assert found is None, "a file that was cut off is refused"


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"\x08\0\0\0\0\0\0\0{", b"\x80\x02"]))
def test_any_bytes(content: bytes, head: bytes) -> None:
    assert header_or_refusal(head + content, ".pth") is None


def pth(data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A .pth file with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("a/data.pkl", data)
    return buffer.getvalue()


def safetensors(fields: bytes, length: int | None = None, more: int = 0) -> bytes:
    """A .safetensors file with this header."""
    return struct.pack("<Q", len(fields) if length is None else length) + fields + bytes(more)


def _tensor(**changes: object) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}).encode()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "a header of 2^63 bytes": lambda: safetensors(b"{}", 2**63),
    "a header of 2^64 - 1 bytes": lambda: safetensors(b"{}", 2**64 - 1),
    "a header of 17 MB": lambda: safetensors(b"{" + b" " * 17_000_000 + b"}"),
    "deep JSON": lambda: safetensors(b'{"a":' + b"[" * 100_000),
    "a shape of huge numbers": lambda: safetensors(_tensor(shape=[10**300] * 3), more=8),
    "a number of 5000 digits": lambda: safetensors(b'{"a": ' + b"9" * 5000 + b"}"),
    "a negative shape": lambda: safetensors(_tensor(shape=[-2]), more=8),
    "a shape of booleans": lambda: safetensors(_tensor(shape=[True, True]), more=8),
    "a shape that is no list": lambda: safetensors(_tensor(shape=2), more=8),
    "a type that is a list": lambda: safetensors(_tensor(dtype=["F32"]), more=8),
    "offsets behind the end": lambda: safetensors(_tensor(data_offsets=[0, 80]), more=8),
    "offsets backwards": lambda: safetensors(_tensor(data_offsets=[8, 0]), more=8),
    "a zip bomb": lambda: pth(b"\x80\x02" + bytes(20_000_000), zipfile.ZIP_DEFLATED),
    "a pickle that remembers at 2^32 - 1": lambda: pth(b"\x80\x02}r\xff\xff\xff\xffX\0\0\0\x7fa."),
    "a text of 2^63 bytes": lambda: pth(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a."),
    "a byte array of 2^40 bytes": lambda: pth(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a."),
    "nested tuples as a key": lambda: pth(b"\x80\x02}(K\x01" + b"q\0h\0\x86" * 60 + b"K\x01u."),
    "a call of os.system": lambda: pth(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."),
    "a call of a tensor": lambda: pth(b"\x80\x02})R."),
    "a list of itself": lambda: pth(b"\x80\x02]q\0h\0a."),
    "no end": lambda: pth(b"\x80\x02}"),
    "an old opcode": lambda: pth(pickle.dumps({"a": 1}, protocol=0)),
    "a tensor as large as memory": lambda: _huge_view(),
}


def _huge_view() -> bytes:
    """A tensor of 10^12 numbers in a record of one."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    source = zipfile.ZipFile(io.BytesIO(buffer.getvalue()))
    prefix = source.namelist()[0].split("/")[0]
    data = source.read(f"{prefix}/data.pkl")
    changed = data.replace(b"K\x01\x85", b"\x8a\x05\0\0\0\0\x01\x85", 1)
    assert changed != data
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, changed if name.endswith("data.pkl") else source.read(name))
    return out.getvalue()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_in_little_time_and_memory(kind: str) -> None:
    content = HOSTILE[kind]()
    started = time.process_time()
    tracemalloc.start()
    try:
        assert header_or_refusal(content, ".pth") is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 20e6  # KB


def test_torch_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(sound(".pth"))
    code = (
        "import sys; from pathlib import Path; from model.teachers.weights.files import read_header;"
        f"print(len(read_header(Path({str(tmp_path / 'a.pth')!r})).tensors), 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["3", "False"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_every_file_that_was_cut_off_is_refused(suffix: str) -> None:
    content = sound(suffix)
    for length in [*range(0, len(content), 29), len(content) - 1]:
        assert header_or_refusal(content[:length], suffix) is None
