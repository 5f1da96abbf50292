"""Loading of SAM from files, against the state that was saved; wrong files are refused in three lines."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from segment_anything import sam_model_registry

from model.errors import ConfigError
from model.miniature.sam import SamSizes, build_sam, save_sam
from model.miniature.world import make_scene, render
from model.teachers.polygons import Region
from model.teachers.sam import SamTeacher
from model.teachers.sam_loading import open_sam
from model.teachers.weights.sam_layout import OFFICIAL, shape_of

REGION = Region(((20.0, 20.0, 90.0, 20.0, 90.0, 90.0, 20.0, 90.0),))
WRAPS: dict[str, Any] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "best": 0.5},
    "module.": lambda state: {f"module.{name}": value for name, value in state.items()},
    "model of module.sam.": lambda state: {"model": {f"module.sam.{name}": value for name, value in state.items()}},
    "parameters": lambda state: {name: torch.nn.Parameter(value) for name, value in state.items()},
}


SIZES = SamSizes(encoder_depth=2, global_attention=(1,), decoder_depth=1)


@pytest.fixture(scope="module")
def random_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return build_sam(SIZES).state_dict()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, random_state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A tiny SAM that the package knows by name, as it knows the published ones."""
    monkeypatch.setitem(OFFICIAL, "tiny", shape_of(dataclasses.asdict(SIZES)))
    monkeypatch.setitem(sam_model_registry, "tiny", lambda: build_sam(SIZES))
    sam = build_sam(SIZES)
    sam.load_state_dict(random_state)
    return sam


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_wrapped_checkpoint_has_the_tensors_that_were_saved(tmp_path: Path, tiny: torch.nn.Module, wrap: str) -> None:
    path = tmp_path / "sam.pth"
    torch.save(WRAPS[wrap](tiny.state_dict()), path)
    opened = open_sam(path).state_dict()
    assert opened.keys() == tiny.state_dict().keys()
    assert all(torch.equal(value, opened[name]) for name, value in tiny.state_dict().items())


@pytest.mark.parametrize(
    ("dtype", "suffix", "precision"),
    [
        (torch.float32, ".safetensors", "fp32"),
        (torch.float16, ".safetensors", "bf16"),
        (torch.bfloat16, ".pth", "fp16"),
        (torch.float16, ".pth", "fp32"),
    ],
)
def test_every_type_of_file_works_in_every_precision(
    tmp_path: Path, tiny: torch.nn.Module, dtype: torch.dtype, suffix: str, precision: str
) -> None:
    state = {name: value.to(dtype) for name, value in tiny.state_dict().items()}
    path = tmp_path / f"sam{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    teacher = SamTeacher.load(str(path), precision=precision)
    image, _ = render(make_scene(1))
    tiny.load_state_dict(state)
    expected = SamTeacher(tiny, precision=precision)
    (segment,) = teacher.segment(teacher.encode_image(image), [REGION])
    assert [segment] == list(expected.segment(expected.encode_image(image), [REGION]))
    assert {parameter.dtype for parameter in teacher.sam.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", [".pth", ".safetensors", "folder"])
def test_a_sam_is_filled_as_by_copies_into_random_parameters(tmp_path: Path, tiny: torch.nn.Module, kind: str) -> None:
    """Tensor by tensor, in type, place in memory and device, and of its own memory: not that of the file."""
    state = tiny.state_dict()
    if kind == "folder":
        save_sam(build_sam(SIZES), SIZES, tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        path = tmp_path
    else:
        path = tmp_path / f"sam{kind}"
        name = "image_encoder.blocks.0.mlp.lin1.weight"
        if kind == ".pth":  # a checkpoint can hold tensors whose numbers lie in another order
            state[name] = state[name].T.contiguous().T
            torch.save(state, path)
        else:
            save_file(state, path)
    tiny.load_state_dict(state)
    before = torch.random.get_rng_state()
    opened = open_sam(path)
    assert torch.equal(torch.random.get_rng_state(), before), "random numbers are drawn for nothing"
    file = path / "model.safetensors" if kind == "folder" else path
    size = file.stat().st_size
    with open(file, "r+b") as stream:  # in place, as a program that writes into the file would
        stream.write(b"\xff" * size)
    found, expected = (dict(m.named_parameters()) | dict(m.named_buffers()) for m in (opened, tiny))
    assert found.keys() == expected.keys()
    assert {"pixel_mean", "pixel_std"} <= found.keys()
    for name, tensor in found.items():
        own, other = ((t.dtype, t.device.type, t.stride(), t.requires_grad) for t in (tensor, expected[name]))
        assert own == other, name
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_the_packages_pixel_mean_is_real_on_the_meta_device(name: str) -> None:
    """No checkpoint holds it, so that a package that made it there would leave it empty."""
    with torch.device("meta"):
        sam = sam_model_registry[name]()
    assert sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert sam.pixel_std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/nonexistent").touch, ())


def test_a_pickle_of_code_is_refused_and_not_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        SamTeacher.load(str(tmp_path / "none.pth"))
    evil = tmp_path / "evil.pth"
    torch.save({"image_encoder.pos_embed": Evil()}, evil)
    with pytest.raises(ConfigError, match=r"SAM at .*evil\.pth: it is a pickle of .*, and pickles are never run"):
        open_sam(evil)


def test_a_published_checkpoint_of_another_size_is_no_11_768_characters(tmp_path: Path, tiny: torch.nn.Module) -> None:
    """Every tensor of the encoder has another name: torch alone would list all."""
    path = tmp_path / "sam.pth"
    torch.save({name.replace("blocks", "layers"): value for name, value in tiny.state_dict().items()}, path)
    with pytest.raises(ConfigError, match=r"sam_vit_b_01ec64\.pth") as caught:
        open_sam(path)
    assert len(str(caught.value)) < 360 + len(str(path))


def test_a_damaged_folder_is_one_message(sam_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((sam_folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((sam_folder / "model.safetensors").read_bytes()[:-50])
    with pytest.raises(ConfigError, match=r"model\.safetensors: it has .* bytes and should have .*; the download"):
        SamTeacher.load(str(tmp_path))
