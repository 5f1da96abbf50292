"""Weights are told by their headers: the teachers' own are accepted in any wrapping, others are refused by name."""

import dataclasses
import json
import pickle
import shutil
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import ConfigError
from model.miniature.sam import SamSizes
from model.teachers.weights.files import read_header
from model.teachers.weights.identify import identify
from model.teachers.weights.layouts import LAYOUTS, layout_of
from model.teachers.weights.sam_layout import OFFICIAL, sam_tensors, shape_of
from tests.model.teachers.weights.fixtures_checkpoints import (
    VIT_B,
    light,
    light_pth,
    shapes_of,
    sparse_safetensors,
    write_config,
)

THREE_LINES = 3 * 120
OFFICIAL_REMEDY = "give segment-anything's own sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth or sam_vit_b_01ec64.pth"
MICROSOFT = {"auto_map": {"AutoModel": "modeling_florence2.X"}, "model_type": "florence2"}
DAVIT = {"model_type": "florence2", "vision_config": {"model_type": "davit"}, "text_config": {"d_model": 768}}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 2564550879\n"


def refused(role: str, path: Path) -> str:
    """The message of a refusal: apart from paths at most three lines of a terminal, and no advice to convert."""
    with pytest.raises(ConfigError) as caught:
        identify(role, path)
    message = str(caught.value).replace(str(path), "PATH")
    assert len(message) <= THREE_LINES, message
    assert "convert" not in message
    return message


# -- SAM's own


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", OFFICIAL)
def test_the_published_files(tmp_path: Path, name: str, dtype: str) -> None:
    shapes = sam_tensors(OFFICIAL[name])
    assert identify("sam", light_pth(tmp_path / "a.pth", shapes, dtype=dtype)).name == name
    assert identify("sam", sparse_safetensors(tmp_path / "a.safetensors", shapes, dtype)).name == name


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [
        *((wrapper, "module.") for wrapper in (None, "model", "state_dict", "model_state_dict")),
        *(("model", prefix) for prefix in ("", "sam.", "_orig_mod.module.sam_model.", "model.")),
    ],
)
def test_wrappers_and_prefixes(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = {prefix + name: value for name, value in light(VIT_B).items()}
    torch.save(state if wrapper is None else {"epoch": 3, wrapper: state, "lr": [0.1, (1, None)]}, tmp_path / "a.pth")
    found = identify("sam", tmp_path / "a.pth")
    (header,) = found.headers.values()
    assert (found.name, header.wrapper, header.skipped) == ("vit_b", wrapper, len(prefix))
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == VIT_B


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("mask_decoder.iou_token.weight"), "1 tensor is missing, first mask_decoder.iou_token.weight;"),
        (lambda s: s.update(extra=(2, 3)), "compared with vit_b, 1 tensor is surplus, first extra;"),
        (
            lambda s: s.update({"image_encoder.pos_embed": (1, 32, 32, 768)}),
            "1 tensor is of another shape, first image_encoder.pos_embed [1, 32, 32, 768] instead of [1, 64, 64, 768];",
        ),
        (
            lambda s: [s.pop(name) for name in list(s) if name.startswith("prompt_encoder.")],
            "17 tensors are missing, first prompt_encoder.pe_layer.positional_encoding_gaussian_matrix;",
        ),
    ],
)
def test_a_sam_that_is_not_whole(tmp_path: Path, change: Any, message: str) -> None:
    shapes = dict(VIT_B)
    change(shapes)
    for path in (light_pth(tmp_path / "a.pth", shapes), sparse_safetensors(tmp_path / "a.safetensors", shapes)):
        assert message in refused("sam", path)


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    found = refused("sam", sparse_safetensors(tmp_path / "a.safetensors", VIT_B, "I8"))
    assert f"{len(VIT_B)} tensors are of a type that is no weights', first image_encoder.pos_embed I8" in found


def test_the_look_does_not_read_the_file(tmp_path: Path) -> None:
    """2.6 GB of which no block is on the disk; the header has 0.1 MB."""
    path = sparse_safetensors(tmp_path / "sam_vit_h.safetensors", sam_tensors(OFFICIAL["vit_h"]))
    assert path.stat().st_size > 2.5e9
    started = time.process_time()
    assert identify("sam", path).name == "vit_h"
    assert time.process_time() - started < 1


# -- other models

FOREIGN: dict[str, tuple[list[str], str]] = {
    "hq": ([*VIT_B, "mask_decoder.hf_token.weight", "mask_decoder.compress_vit_feat.0.weight"], "HQ-SAM"),
    "mobile": (
        ["image_encoder.patch_embed.seq.0.c.weight", "image_encoder.layers.0.blocks.0.conv1.c.weight"],
        "Mobile",
    ),
    "sam2": (["image_encoder.trunk.blocks.0.attn.qkv.weight", "memory_attention.layers.0.norm1.weight"], "SAM 2"),
    "hf": (
        ["vision_encoder.layers.0.attn.qkv.weight", "mask_decoder.transformer.layers.0.self_attn.q_proj.weight"],
        "SAM in the layout of Hugging Face",
    ),
    "efficient": (["image_encoder.blocks.0.attn.qkv.weight", "prompt_encoder.invalid_points.weight"], "EfficientSAM"),
    "yolo": (["model.0.conv.weight", "model.22.cv2.0.0.conv.weight"], "FastSAM or another YOLO"),
    "dino": (
        ["module.bert.encoder.layer.0.output.dense.weight", "module.transformer.level_embed"],
        "Grounding DINO",
    ),
    "encoder": (["image_encoder.blocks.0.attn.qkv.weight"], "the image encoder of SAM alone"),
    "microsoft": (
        ["vision_tower.convs.0.proj.weight", "image_projection", "language_model.model.shared.weight"],
        "Florence-2 in Microsoft's remote-code layout",
    ),
    "florence": (
        ["model.vision_tower.convs.0.conv.weight", "model.language_model.encoder.layers.0.fc1.weight"],
        "Florence-2",
    ),
    "llama": (["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"], "a language model"),
    "convnext": (["stages.0.blocks.0.conv_dw.weight", "stem.0.weight"], "a ConvNeXt"),
    "clip": (["text_model.embeddings.token_embedding.weight", "vision_model.embeddings.class_embedding"], "CLIP"),
    "unknown": (["a.weight", "b.weight"], "no model that is known here"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_another_model_given_as_sam(tmp_path: Path, kind: str, suffix: str) -> None:
    names, what = FOREIGN[kind]
    make = light_pth if suffix == ".pth" else sparse_safetensors
    found = refused("sam", make(tmp_path / f"sam{suffix}", shapes_of(names)))
    assert found.startswith(f"it is {what}")
    assert "not SAM (" in found
    assert OFFICIAL_REMEDY in found


@pytest.mark.parametrize("kind", [kind for kind in FOREIGN if kind != "florence"] + ["sam"])
def test_another_model_given_as_florence(tmp_path: Path, kind: str) -> None:
    names, what = FOREIGN.get(kind, (list(VIT_B), "SAM"))
    config = {"model_type": "florence2", "vision_config": {}, "text_config": {}}
    folder = write_config(tmp_path / "f", config, "tokenizer.json")
    sparse_safetensors(folder / "model.safetensors", shapes_of(names))
    for path in (folder, folder / "model.safetensors"):
        found = refused("florence", path)
        assert found.startswith(f"it is {what}")
        assert "not Florence-2 (" in found or "Microsoft" in found
        assert "hub:florence-community/Florence-2-base (or -base-ft" in found


def test_every_layout_of_the_table_is_met() -> None:
    met = {layout.name for names, _ in FOREIGN.values() if (layout := layout_of(names))} | {"SAM"}
    assert {layout.name for layout in LAYOUTS} - met == {"EfficientViT-SAM", "a vision transformer alone"}


def test_a_pickled_object_is_named_by_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ultralytics saves its models: the whole object, which needs ultralytics to be read."""
    module = types.ModuleType("ultralytics.nn.tasks")
    module.SegmentationModel = type("SegmentationModel", (), {"__module__": "ultralytics.nn.tasks"})
    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, module)
    torch.save({"model": module.SegmentationModel()}, tmp_path / "FastSAM-x.pth")
    found = refused("sam", tmp_path / "FastSAM-x.pth")
    assert found.startswith("it looks like FastSAM or another YOLO: it is a pickle of ultralytics.nn.tasks.Segm")


# -- files that hold no weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is an empty file"),
        (POINTER, "it is a Git-LFS pointer, not the file itself: run `git lfs pull`"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "it is a web page"),
        (b"  <html>", "it is a web page"),
        (pickle.dumps({"a": 1}), "it is a pickle, which is never loaded"),
        (b"x" * 1000, "it is neither a .safetensors file nor a .pth file"),
        (b"PK\x03\x04" + bytes(100), "it is a zip without its end"),
    ],
)
def test_a_file_that_holds_no_weights(tmp_path: Path, content: bytes, message: str) -> None:
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        assert refused("sam", tmp_path / name).startswith(message)


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_old_format_of_torch_is_a_pickle(tmp_path: Path, protocol: int) -> None:
    torch.save(light({"a": (1,)}), tmp_path / "a.pth", _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    assert "pickle" in refused("sam", tmp_path / "a.pth")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_any_protocol_of_torch_save(tmp_path: Path, protocol: int) -> None:
    torch.save(light(VIT_B), tmp_path / "a.pth", pickle_protocol=protocol)
    assert identify("sam", tmp_path / "a.pth").name == "vit_b"


@pytest.mark.parametrize("length", [0x80, 0x180, 0x580, 0x1_0280])
def test_a_header_whose_length_begins_like_a_pickle(tmp_path: Path, length: int) -> None:
    fields = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'.ljust(length)
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + fields + bytes(4))
    assert list(read_header(tmp_path / "a.safetensors").tensors) == ["a"]


# -- folders


def test_the_shipped_teachers(tmp_path: Path, sam_folder: Path, silent: Path) -> None:
    assert identify("sam", sam_folder).name == "SAM"
    assert identify("florence", silent).name == "Florence-2"


def test_a_folder_of_sam(tmp_path: Path) -> None:
    sizes = dataclasses.asdict(SamSizes())
    shapes = sam_tensors(shape_of(json.loads(json.dumps(sizes))))
    folder = write_config(tmp_path / "s", sizes)
    assert refused("sam", folder).startswith("it holds no .safetensors file")
    light_pth(folder / "sam_vit_b.pth", VIT_B)
    assert refused("sam", folder) == "it is a folder; give the file in it, PATH/sam_vit_b.pth"
    sparse_safetensors(folder / "model.safetensors", shapes | {"image_encoder.pos_embed": (1, 9, 9, 64)})
    assert "do not fit its config.json: 1 tensor is of another shape" in refused("sam", folder)
    sparse_safetensors(folder / "model.safetensors", shapes)
    assert identify("sam", folder).name == "SAM"
    (folder / "model.safetensors").write_bytes(POINTER)
    assert refused("sam", folder).startswith("model.safetensors: it is a Git-LFS pointer")


@pytest.fixture
def folder(tmp_path: Path, silent: Path) -> Path:
    return Path(shutil.copytree(silent, tmp_path / "florence"))


@pytest.mark.parametrize("config", [MICROSOFT, DAVIT])
def test_microsofts_layout_is_refused_with_the_hub_id(folder: Path, config: dict[str, Any]) -> None:
    write_config(folder, config)
    found = refused("florence", folder)
    assert found.startswith(
        "it is Florence-2 in Microsoft's remote-code layout, whose code is never run; give hub:flor"
    )
    assert ("Florence-2-base (or -base-ft)@COMMIT" in found) == (config is DAVIT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: write_config(f, {"model_type": "llama"}), "its config.json has the model_type 'llama'"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text("[1]"), "config.json is damaged"),
        (lambda f: (f / "config.json").write_bytes(POINTER), "config.json is a Git-LFS pointer"),
        (lambda f: (f / "config.json").unlink(), "it has no config.json; give hub:"),
        (lambda f: (f / "tokenizer.json").unlink(), "it lacks the tokenizer (tokenizer.json or vocab.json and merges"),
        (lambda f: (f / "tokenizer.json").write_bytes(POINTER), "tokenizer.json is a Git-LFS pointer"),
        (lambda f: (f / "processor_config.json").unlink(), "it lacks the image processor's settings (processor_conf"),
        (lambda f: (f / "model.safetensors").write_bytes(POINTER), "model.safetensors: it is a Git-LFS pointer"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors: it is an empty file"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "it holds weights as a pickle only (pytorch_model.bin), never loaded; give hub:florence-community",
        ),
        (lambda f: (f / "model.safetensors").rename(f / "other.safetensors"), "it has neither model.safetensors nor"),
    ],
)
def test_a_folder_that_is_not_whole(folder: Path, change: Any, message: str) -> None:
    change(folder)
    assert refused("florence", folder).startswith(message)


def test_a_folder_in_several_files(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(state)}
    for file in set(places.values()):
        save_file({name: value for name, value in state.items() if places[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert {path.name for path in identify("florence", folder).headers} == set(places.values())
    index.write_text(json.dumps({"weight_map": places | {"more": min(places.values())}}))
    assert "names 1 tensors that its files lack, first more" in refused("florence", folder)
    index.write_text(json.dumps({"weight_map": places | {"more": "../other.safetensors"}}))
    assert "which is no .safetensors file of this folder" in refused("florence", folder)
    index.write_text(json.dumps({"weight_map": places}))
    (folder / max(places.values())).unlink()
    assert "model-00002-of-00002.safetensors, which is missing; download it too" in refused("florence", folder)


@pytest.mark.parametrize("role", ["text", "vision"])
def test_the_students_weights_are_whole_files(tmp_path: Path, role: str) -> None:
    folder = write_config(tmp_path / "w", {})
    sparse_safetensors(folder / "model.safetensors", shapes_of(["a"]))
    assert list(identify(role, folder).headers) == [folder / "model.safetensors"]
    with open(folder / "model.safetensors", "r+b") as stream:
        stream.truncate(60)
    assert refused(role, folder).startswith("model.safetensors: ")
    (folder / "model.safetensors").write_bytes(POINTER)
    assert refused(role, folder).startswith("model.safetensors: it is a Git-LFS pointer")
