"""Fingerprints: they depend on content, not on time or place."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from random import Random
from typing import IO, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import pipeline.plan.fingerprints as fingerprints_module
from model.errors import ConfigError, DataError
from model.teachers.weights.finite import FiniteCheck
from model.teachers.weights.sam_layout import OFFICIAL, sam_tensors
from pipeline.artifacts.spec import digest
from pipeline.plan.fingerprints import MINIATURE_WEIGHTS, Fingerprints, listing
from pipeline.sources.config import CambrianSource, FolderSource, MiniatureSource
from tests.model.teachers.weights.fixtures_checkpoints import VIT_B, light_pth


@pytest.fixture
def raw(tmp_path: Path) -> CambrianSource:
    images = tmp_path / "raw" / "images"
    images.mkdir(parents=True)
    (images / "a.jpg").write_bytes(b"a")
    (tmp_path / "raw" / "data.jsonl").write_text("{}\n")
    return CambrianSource(annotations=str(tmp_path / "raw" / "data.jsonl"), images=str(images))


def test_moving_and_touching_raw_data_changes_nothing(tmp_path: Path, raw: CambrianSource) -> None:
    fingerprints = Fingerprints(tmp_path / "scratch")
    before = fingerprints.source("pretrain", raw)
    os.utime(raw.annotations, (1, 1))
    assert fingerprints.source("pretrain", raw) == before
    shutil.move(str(tmp_path / "raw"), str(tmp_path / "elsewhere"))
    moved = CambrianSource(
        annotations=str(tmp_path / "elsewhere" / "data.jsonl"), images=str(tmp_path / "elsewhere" / "images")
    )
    assert fingerprints.source("pretrain", moved) == before


def test_changed_raw_data_has_another_fingerprint(tmp_path: Path, raw: CambrianSource) -> None:
    def fingerprint() -> str:
        return Fingerprints(tmp_path / "scratch").source("pretrain", raw)

    seen = {fingerprint()}
    Path(raw.annotations).write_text("{ }\n")
    seen.add(fingerprint())
    (Path(raw.images) / "a.jpg").write_bytes(b"aa")
    seen.add(fingerprint())
    (Path(raw.images) / "b.jpg").write_bytes(b"b")
    seen.add(fingerprint())
    assert len(seen) == 4


def test_a_folder_is_listed_once_in_a_plan_and_again_in_a_step_only_if_names_changed(
    tmp_path: Path, raw: CambrianSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints_module, "RECENT_NS", 0)
    listed: list[Path] = []
    really = fingerprints_module.listing

    def counted(folder: Path, folders: dict[str, list[int]] | None = None) -> str:
        listed.append(folder)
        return really(folder, folders)

    monkeypatch.setattr(fingerprints_module, "listing", counted)
    other = raw.model_copy(update={"folder_aliases": {"a": "b"}})
    plan = Fingerprints(tmp_path / "scratch")
    planned = plan.source("pretrain", raw)
    assert plan.source("instruct", other) == planned
    assert len(listed) == 1, "two data sets share the folder"

    def in_a_step() -> str:
        return Fingerprints(tmp_path / "scratch", planning=False).source("pretrain", raw)

    assert in_a_step() == planned
    (Path(raw.images) / "a.jpg").write_bytes(b"overwritten in place: pack and segment compare checksums")
    assert in_a_step() == planned
    assert len(listed) == 1
    (Path(raw.images) / "b.jpg").write_bytes(b"b")
    assert in_a_step() != planned
    assert len(listed) == 2
    assert Fingerprints(tmp_path / "scratch").source("pretrain", raw) != planned
    assert len(listed) == 3, "a plan looks at every file"


def test_the_role_of_a_file_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    file.write_text("{}")
    fingerprints = Fingerprints(tmp_path / "scratch")
    images = tmp_path / "images"
    images.mkdir()
    captions = fingerprints.source("pretrain", FolderSource(images=str(images), captions=str(file)))
    assert captions != fingerprints.source("pretrain", FolderSource(images=str(images), instances=str(file)))


def test_the_content_of_metadata_among_the_images_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    """Images are compared by name and size only, but such a file is an annotation file."""
    images, fingerprints = tmp_path / "images", Fingerprints(tmp_path / "scratch")
    (images / "train").mkdir(parents=True)
    seen = set()
    for text in ("A dog.", "A cat."):
        (images / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "0.jpg", "text": text}))
        seen.add(fingerprints.source("pretrain", FolderSource(images=str(images))))
    assert len(seen) == 2


# -- checksums of files


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The content of each file that was hashed."""
    seen: list[bytes] = []

    def sha256_of(stream: IO[bytes]) -> tuple[str, int]:
        seen.append(stream.read())
        return hashlib.sha256(seen[-1]).hexdigest(), len(seen[-1])

    monkeypatch.setattr("pipeline.plan.fingerprints.sha256_of", sha256_of)
    return seen


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no file had changed recently."""
    monkeypatch.setattr("pipeline.plan.fingerprints.RECENT_NS", 0)


@pytest.mark.usefixtures("at_rest")
def test_a_checksum_is_computed_once(tmp_path: Path, hashed: list[bytes]) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    before = Fingerprints(tmp_path / "scratch").file(tmp_path / "a")
    assert Fingerprints(tmp_path / "scratch").file(tmp_path / "a") == before
    assert hashed == [b"aaa"]


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("replaced", [False, True], ids=["written in place", "another file"])
def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, replaced: bool) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"aaa")
    fingerprints = Fingerprints(tmp_path / "scratch")
    fingerprints.file(file)
    status = file.stat()
    time.sleep(0.05)  # more than the resolution of the file system's times
    if replaced:
        (tmp_path / "b").write_bytes(b"bbb")
        os.replace(tmp_path / "b", file)
    else:
        file.write_bytes(b"bbb")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert fingerprints.file(file) == hashlib.sha256(b"bbb").hexdigest()


def test_a_file_that_changed_just_now_is_not_cached(tmp_path: Path, hashed: list[bytes]) -> None:
    """It could change again within the resolution of the file system's timestamps."""
    (tmp_path / "a").write_bytes(b"aaa")
    fingerprints = Fingerprints(tmp_path / "scratch")
    assert fingerprints.file(tmp_path / "a") == fingerprints.file(tmp_path / "a")
    assert hashed == [b"aaa", b"aaa"]
    assert not (tmp_path / "scratch" / "fingerprints").exists()


@given(st.lists(st.binary(min_size=3, max_size=3), min_size=2, max_size=6))
def test_a_checksum_is_right_however_fast_the_file_changes(contents: list[bytes]) -> None:
    """Every write keeps the size and resets the modification time."""
    with tempfile.TemporaryDirectory() as name:
        file, fingerprints = Path(name) / "a", Fingerprints(Path(name) / "scratch")
        for content in contents:
            file.write_bytes(content)
            os.utime(file, ns=(1, 1))
            assert fingerprints.file(file) == hashlib.sha256(content).hexdigest()


@pytest.mark.usefixtures("at_rest")
def test_a_file_that_changes_while_it_is_hashed_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"aaa")

    def sha256_of(stream: IO[bytes]) -> tuple[str, int]:
        file.write_bytes(b"longer")
        return "0" * 64, 3

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.plan.fingerprints.sha256_of", sha256_of)
        Fingerprints(tmp_path / "scratch").file(file)
    assert Fingerprints(tmp_path / "scratch").file(file) == hashlib.sha256(b"longer").hexdigest()


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_cache_entry_is_computed_again(tmp_path: Path, hashed: list[bytes], content: str) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    fingerprints = Fingerprints(tmp_path / "scratch")
    before = fingerprints.file(tmp_path / "a")
    (entry,) = (tmp_path / "scratch" / "fingerprints").iterdir()
    entry.write_text(content)
    assert fingerprints.file(tmp_path / "a") == before
    assert fingerprints.file(tmp_path / "a") == before
    assert hashed == [b"aaa", b"aaa"]


# -- trees of images

NAMES = st.text(st.sampled_from("ab\n\u00e9 \udcff."), min_size=1, max_size=3).filter(lambda n: n.strip(".") != "")
TREES = st.dictionaries(
    NAMES, st.recursive(st.integers(0, 3), lambda below: st.dictionaries(NAMES, below, max_size=3)), max_size=4
)


def grow(folder: Path, tree: dict[str, Any]) -> None:
    """Create files of these sizes, and folders for nested trees."""
    folder.mkdir()
    for name, item in tree.items():
        if isinstance(item, dict):
            grow(folder / name, item)
        else:
            (folder / name).write_bytes(bytes(item))


def files_of(tree: dict[str, Any], prefix: str = "") -> dict[str, int]:
    """Path -> size of the files of a tree."""
    found: dict[str, int] = {}
    for name, item in tree.items():
        found |= files_of(item, f"{prefix}{name}/") if isinstance(item, dict) else {prefix + name: item}
    return found


@given(TREES, TREES, st.randoms())
def test_two_trees_have_the_same_listing_if_their_files_have_the_same_names_and_sizes(
    one: dict[str, Any], two: dict[str, Any], random: Random
) -> None:
    shuffled = dict(random.sample(list(one.items()), len(one)))
    with tempfile.TemporaryDirectory() as name:
        for number, tree in enumerate((one, shuffled, two)):
            grow(Path(name) / str(number), tree)
        first, again, other = (listing(Path(name) / str(number)) for number in range(3))
    assert first == again
    assert (first == other) == (files_of(one) == files_of(two))


def test_a_listing_does_not_depend_on_the_order_of_scandir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path / "images", {"b": 1, "a": {"z": 1, "\u00e9": 2}, "\udcff": 1, "c": {}})
    before = listing(tmp_path / "images")
    really = os.scandir

    class Backwards(list[Any]):
        def __enter__(self) -> "Backwards":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", lambda path: Backwards(sorted(really(path), key=lambda e: e.name)[::-1]))
    assert listing(tmp_path / "images") == before


def test_a_link_counts_by_its_target_relative_to_the_folder(tmp_path: Path) -> None:
    images = tmp_path / "images"
    grow(images, {"a.jpg": 1, "below": {"b.jpg": 2}})
    link = images / "link.jpg"
    seen = {"none": listing(images)}
    for target in ("a.jpg", "below/b.jpg", "below", "nowhere", "link.jpg", "../outside.jpg"):
        link.symlink_to(target)
        seen[target] = listing(images)
        link.unlink()
    assert len(set(seen.values())) == len(seen)
    link.symlink_to(images / "a.jpg")
    assert listing(images) == seen["a.jpg"], "an absolute path to the same image"
    link.unlink()
    link.symlink_to("/also/outside")
    assert listing(images) == seen["../outside.jpg"], "targets outside are never read, so they all count the same"
    (tmp_path / "other").symlink_to(images)
    assert listing(tmp_path / "other") == listing(images)


def test_a_pipe_is_listed_and_not_opened(tmp_path: Path) -> None:
    grow(tmp_path / "images", {"a.jpg": 1})
    before = listing(tmp_path / "images")
    os.mkfifo(tmp_path / "images" / "pipe.jpg")
    assert listing(tmp_path / "images") != before


class Forbidden:
    """`os.scandir` without the permission to open a folder of this name."""

    def __init__(self, name: bytes) -> None:
        self._name, self._really = name, os.scandir

    def __call__(self, path: Any) -> Any:
        if os.path.basename(os.fsencode(path).rstrip(b"/")) == self._name:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return self._really(path)


def test_an_unreadable_folder_is_part_of_the_listing_as_such(
    tmp_path: Path, raw: CambrianSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Path(raw.images)
    without = listing(images)
    (images / "secret").mkdir()
    empty = listing(images)
    (images / "secret" / "a.jpg").write_bytes(b"a")
    full = listing(images)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", Forbidden(b"secret"))
        hidden = listing(images)
    assert without == empty, "an empty folder has no image"
    assert len({empty, full, hidden}) == 3
    monkeypatch.setattr(os, "scandir", Forbidden(b"images"))
    with pytest.raises(DataError, match=r"data\.pretrain: .*/images/ cannot be read \(Permission denied\)"):
        Fingerprints(tmp_path / "scratch").source("pretrain", raw)


def test_an_unreadable_annotation_file_is_a_data_error(
    tmp_path: Path, raw: CambrianSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(stream: IO[bytes]) -> None:
        raise OSError(errno.EIO, "Input/output error", os.fsencode(raw.annotations) + b"\xff")

    monkeypatch.setattr("pipeline.plan.fingerprints.sha256_of", fails)
    with pytest.raises(DataError, match=r"data\.jsonl\\xff cannot be read \(Input/output error\)") as caught:
        Fingerprints(tmp_path / "scratch").source("pretrain", raw)
    assert str(caught.value).encode("utf-8")


def test_missing_raw_data_names_the_path(tmp_path: Path) -> None:
    source = CambrianSource(annotations=str(tmp_path / "no.jsonl"), images=str(tmp_path))
    with pytest.raises(DataError, match=r"data\.pretrain: annotation file .*no\.jsonl does not exist"):
        Fingerprints(tmp_path / "scratch").source("pretrain", source)


def test_a_miniature_worlds_fingerprint_depends_on_its_code_and_settings(tmp_path: Path) -> None:
    fingerprints = Fingerprints(tmp_path / "scratch")
    first = fingerprints.source("pretrain", MiniatureSource(records="captions", scenes=10, seed=1))
    assert first == fingerprints.source("instruct", MiniatureSource(records="captions", scenes=10, seed=1))
    assert first != fingerprints.source("pretrain", MiniatureSource(records="captions", scenes=11, seed=1))


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


def test_a_cache_that_cannot_be_written_is_told_once_and_blamed_on_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(fingerprints_module, "write_text", full)
    weights = {role: Fingerprints(tmp_path / "kept").weights(role, "miniature") for role in ("florence", "sam")}
    found = Fingerprints(tmp_path / "cache")
    assert {role: found.weights(role, "miniature") for role in ("florence", "sam")} == weights
    told = capsys.readouterr().err.splitlines()
    assert len([line for line in told if str(tmp_path / "cache") in line]) == 1
    assert "checksums are not kept" in told[-1]
    assert "the disk is full" in told[-1]
