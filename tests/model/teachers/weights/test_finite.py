"""NaN and infinite numbers are found in files as they pass by, against torch.isfinite."""

import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from model.teachers.weights.files import read_header
from model.teachers.weights.finite import FiniteCheck, Watched

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
NUMBERS = st.lists(
    st.one_of(st.floats(width=16), st.sampled_from([65504.0, -65504.0, 6e-8, 0.0, -0.0])), min_size=0, max_size=9
)


def write(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """Write state as the file's suffix says."""
    torch.save(state, path) if path.suffix == ".pth" else save_file(state, path)
    return path


def bad_tensor(path: Path, piece: int) -> str | None:
    """The result of a check of a file that is read in pieces of this size."""
    check = FiniteCheck(read_header(path))
    with open(path, "rb") as stream:
        watched = Watched(stream, check)
        while watched.read(piece):
            pass
    return check.bad


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@settings(max_examples=40)
@given(
    state=st.dictionaries(
        st.text("abc", min_size=1, max_size=3), st.tuples(st.sampled_from(list(DTYPES)), NUMBERS), max_size=4
    ).filter(bool),
    piece=st.integers(1, 40),
)
def test_what_is_found_is_what_torch_finds(suffix: str, state: dict[str, tuple[str, list[float]]], piece: int) -> None:
    """Whatever the sizes of the pieces, which cut numbers apart, and the types in one file."""
    tensors = {name: torch.tensor(numbers, dtype=DTYPES[dtype]) for name, (dtype, numbers) in state.items()}
    bad = {name for name, tensor in tensors.items() if not tensor.isfinite().all()}
    with tempfile.TemporaryDirectory() as folder:
        found = bad_tensor(write(Path(folder) / f"a{suffix}", tensors), piece)
    assert (found is None) == (not bad)
    assert found is None or found in bad


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_one_number_in_the_last_tensor(tmp_path: Path, value: float, dtype: torch.dtype, suffix: str) -> None:
    state = {name: torch.zeros(1000, dtype=dtype) for name in ("a", "b", "c")} | {"d": torch.zeros(3, dtype=torch.int8)}
    path = write(tmp_path / f"a{suffix}", state)
    assert bad_tensor(path, 64) is None
    state["c"][-1] = value
    assert bad_tensor(write(path, state), 64) == "c"


def test_a_tensor_that_is_a_part_of_a_record(tmp_path: Path) -> None:
    """Numbers of a record that no tensor has are nobody's."""
    record = torch.tensor([float("nan"), 1.0, 2.0, 3.0, float("nan")])
    assert bad_tensor(write(tmp_path / "a.pth", {"a": record[1:4], "b": record[1:2]}), 7) is None
    assert bad_tensor(write(tmp_path / "a.pth", {"a": record[1:4], "b": record[3:]}), 7) == "b"


def test_little_memory(tmp_path: Path) -> None:
    """The numbers of a record are looked at as they come: at most one number of a tensor is kept."""
    path = write(tmp_path / "a.safetensors", {"a": torch.zeros(10_000)})
    check = FiniteCheck(read_header(path))
    stream: Any = Watched(io.BytesIO(path.read_bytes()), check)
    while stream.read(7):
        assert sum(len(rest) for rest in check._rests.values()) < 4
