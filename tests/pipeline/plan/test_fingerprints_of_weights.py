"""Fingerprints of weights: the files that are loaded, and a look at the numbers of teachers."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import ConfigError
from model.teachers.weights.finite import FiniteCheck
from model.teachers.weights.sam_layout import OFFICIAL, sam_tensors
from pipeline.artifacts.spec import digest
from pipeline.plan.fingerprints import MINIATURE_WEIGHTS, Fingerprints
from tests.model.teachers.weights.fixtures_checkpoints import VIT_B, light_pth


def test_hub_weights_need_a_commit(tmp_path: Path) -> None:
    fingerprints = Fingerprints(tmp_path / "scratch")
    name = f"hub:florence-community/Florence-2-large@{'a' * 40}"
    assert fingerprints.weights("florence", name) == name
    with pytest.raises(ConfigError, match="COMMIT"):
        fingerprints.weights("florence", "hub:florence-community/Florence-2-large")
    with pytest.raises(ConfigError, match="there is no"):
        fingerprints.weights("sam", str(tmp_path / "none.pth"))


NO_TENSORS = (2).to_bytes(8, "little") + b"{}"


def weights(folder: Path, *files: str) -> Path:
    """A folder of weights; the content of each file is its name, or a header without tensors."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(NO_TENSORS if file.endswith(".safetensors") else file.encode())
    return folder


def test_the_fingerprint_of_a_weights_file_depends_on_its_content_and_not_on_its_name(tmp_path: Path) -> None:
    fingerprints = Fingerprints(tmp_path / "scratch")
    files = [tmp_path / name for name in ("sam_vit_b.pth", "renamed.pth", "other.pth")]
    light_pth(files[0], sam_tensors(OFFICIAL["vit_b"]), 0.0)
    shutil.copy(files[0], files[1])
    light_pth(files[2], sam_tensors(OFFICIAL["vit_b"]), 1.0)
    one, renamed, other = (fingerprints.weights("sam", str(file)) for file in files)
    assert one == renamed != other
    with pytest.raises(ConfigError, match=r"weights\.text = '.*/other\.pth': it is a file; give the folder"):
        fingerprints.weights("text", str(files[2]))


@pytest.mark.parametrize("role", ["florence", "sam", "text", "vision"])
def test_a_folder_with_pickled_weights_only_is_refused_with_the_remedy(tmp_path: Path, role: str) -> None:
    folder = weights(tmp_path / "w", "config.json", "pytorch_model.bin", "original/consolidated.00.pth")
    (folder / "config.json").write_text('{"model_type": "florence2"}')
    with pytest.raises(ConfigError, match=rf"weights\.{role} = .*never loaded; give") as caught:
        Fingerprints(tmp_path / "scratch").weights(role, str(folder))
    assert "convert" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"holds no \.safetensors file; give"):
        Fingerprints(tmp_path / "scratch").weights(role, str(weights(tmp_path / "empty", "notes.txt")))


def test_the_fingerprint_of_a_weights_folder_depends_on_the_loaded_files_only(tmp_path: Path) -> None:
    fingerprints = Fingerprints(tmp_path / "scratch")
    folder = weights(tmp_path / "w", "config.json", "model.safetensors", "tokenizer.json")
    before = fingerprints.weights("text", str(folder))
    weights(folder, "pytorch_model.bin", "README.md")
    assert fingerprints.weights("text", str(folder)) == before
    shutil.move(folder, tmp_path / "moved")
    assert fingerprints.weights("text", str(tmp_path / "moved")) == before
    (tmp_path / "moved" / "tokenizer.json").write_text("other")
    assert fingerprints.weights("text", str(tmp_path / "moved")) != before


def test_weights_that_are_a_dangling_link_are_named(tmp_path: Path) -> None:
    """As after an interrupted download into the Hugging Face cache."""
    folder = weights(tmp_path / "w", "config.json")
    (folder / "model.safetensors").symlink_to("../blobs/gone")
    with pytest.raises(ConfigError, match=r"weights\.text = .*gone cannot be read \(No such file"):
        Fingerprints(tmp_path / "scratch").weights("text", str(folder))


# -- a look at the weights of teachers


def sam_folder(folder: Path, bad: str | None = None, value: float = float("nan")) -> Path:
    """A copy of the miniature SAM; one tensor may have a number that is not finite."""
    shutil.copytree(MINIATURE_WEIGHTS / "sam", folder)
    if bad is not None:
        state = load_file(folder / "model.safetensors")
        state[bad].view(-1)[-1] = value
        save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.usefixtures("at_rest")
def test_a_number_that_is_not_finite_is_found_once_with_the_checksum(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "mask_decoder.iou_token.weight"
    folder = sam_folder(tmp_path / "sam", name, value)
    read, feed = [0], FiniteCheck.feed

    def counted(check: FiniteCheck, piece: bytes) -> None:
        read[0] += len(piece)
        feed(check, piece)

    monkeypatch.setattr(FiniteCheck, "feed", counted)
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"weights\.sam = .*model\.safetensors has NaN .* in tensor {name};"):
            Fingerprints(tmp_path / "scratch").weights("sam", str(folder))
    assert read == [(folder / "model.safetensors").stat().st_size], "the verdict is cached with the checksum"


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_a_number_that_is_not_finite_in_a_short_format(tmp_path: Path, dtype: str) -> None:
    light_pth(tmp_path / "sam.pth", VIT_B, dtype=dtype)
    Fingerprints(tmp_path / "scratch").weights("sam", str(tmp_path / "sam.pth"))
    light_pth(tmp_path / "sam.pth", VIT_B, float("nan"), dtype)
    with pytest.raises(ConfigError, match=r"sam\.pth has NaN or infinite numbers, first in tensor image_encoder"):
        Fingerprints(tmp_path / "scratch").weights("sam", str(tmp_path / "sam.pth"))


def test_a_number_that_is_not_finite_in_the_second_of_two_files(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MINIATURE_WEIGHTS / "florence2", tmp_path / "f"))
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    last = max(state)
    places = {name: "b.safetensors" if name == last else "a.safetensors" for name in state}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    save_file({name: value for name, value in state.items() if name != last}, folder / "a.safetensors")
    for value in (0.0, float("nan")):
        save_file({last: torch.full_like(state[last], value)}, folder / "b.safetensors")
        if value == 0:
            Fingerprints(tmp_path / "scratch").weights("florence", str(folder))
    with pytest.raises(ConfigError, match=rf"b\.safetensors has NaN or infinite numbers, first in tensor {last};"):
        Fingerprints(tmp_path / "scratch").weights("florence", str(folder))


def test_integers_and_empty_tensors_are_finite(tmp_path: Path) -> None:
    """Whatever their bits, as quantized weights of a language backbone have them."""
    folder = weights(tmp_path / "w", "config.json")
    numbers = {str(t): torch.full((3,), -1).to(t) for t in (torch.int8, torch.int16, torch.int32, torch.int64)}
    save_file({**numbers, "empty": torch.zeros(0), "flags": torch.tensor([True])}, folder / "model.safetensors")
    assert Fingerprints(tmp_path / "scratch").weights("text", str(folder))


@pytest.mark.usefixtures("at_rest")
def test_a_checksum_that_was_taken_without_a_look_at_the_numbers_is_no_verdict(tmp_path: Path) -> None:
    folder, fingerprints = sam_folder(tmp_path / "sam", "mask_decoder.iou_token.weight"), Fingerprints(tmp_path / "c")
    assert fingerprints.file(folder / "model.safetensors")
    with pytest.raises(ConfigError, match="has NaN or infinite numbers"):
        fingerprints.weights("sam", str(folder))


def test_the_checksum_is_the_same_with_and_without_the_look(tmp_path: Path) -> None:
    folder, fingerprints = sam_folder(tmp_path / "sam"), Fingerprints(tmp_path / "scratch")
    files = sorted(folder.iterdir())
    expected = digest({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert fingerprints.weights("sam", str(folder)) == expected


@pytest.mark.parametrize("role", ["florence", "sam", "text", "vision"])
def test_the_shipped_weights_pass(tmp_path: Path, role: str) -> None:
    assert Fingerprints(tmp_path).weights(role, "miniature")


@pytest.mark.parametrize(("role", "given"), [("sam", "florence2"), ("florence", "sam"), ("florence", "llama")])
def test_another_models_weights_are_refused_in_three_lines(tmp_path: Path, role: str, given: str) -> None:
    folder = str(MINIATURE_WEIGHTS / given)
    with pytest.raises(ConfigError) as caught:
        Fingerprints(tmp_path).weights(role, folder)
    message = str(caught.value)
    assert message.startswith(f"weights.{role} = '{folder}': it")
    assert "; give " in message
    assert len(message) <= 360 + len(folder)


def test_hub_weights_in_the_cache_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"hub:org/florence@{'a' * 40}"
    cached = {"folder": MINIATURE_WEIGHTS / "florence2"}
    monkeypatch.setattr("pipeline.compute.hub.cached_folder", lambda location: cached["folder"])
    assert Fingerprints(tmp_path).weights("florence", name) == name
    cached["folder"] = MINIATURE_WEIGHTS / "sam"
    with pytest.raises(ConfigError, match=r"weights\.florence = 'hub:org/florence@a+': it"):
        Fingerprints(tmp_path).weights("florence", name)
