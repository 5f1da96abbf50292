"""Paths of an untrusted data set."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.images import ImageError
from pipeline.sources.images import inspect_image, read_image, resolve
from tests.pipeline.sources.fixtures_pictures import bomb, encoded, halves, rotated_by_exif


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "coco").mkdir(parents=True)
    (folder / "coco" / "1.jpg").write_bytes(encoded(halves(), "JPEG"))
    (tmp_path / "secret.jpg").write_bytes(encoded(halves(), "JPEG"))
    return folder


def reason_of(root: Path, reference: str) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(root, reference)
    return caught.value.reason


def test_a_path_below_the_folder(root: Path) -> None:
    assert resolve(root, "coco/1.jpg") == (root / "coco" / "1.jpg").resolve()
    assert resolve(root, "./coco/./1.jpg") == (root / "coco" / "1.jpg").resolve()
    assert inspect_image(root, "coco/1.jpg").width == 40


@pytest.mark.parametrize(
    "reference",
    [
        "../secret.jpg",
        "coco/../../secret.jpg",
        "coco/../coco/1.jpg",
        "..",
        "..\\secret.jpg",
        "/etc/hostname",
        "//server/share.jpg",
        "\\\\server\\share.jpg",
        "C:\\secret.jpg",
        "http://example.org/1.jpg",
        "https://example.org/1.jpg",
        "s3://bucket/1.jpg",
        "file:/etc/hostname",
        "data:image/png;base64,AAAA",
        "",
        "coco/1.jpg\0.png",
        "coco/\ud800.jpg",
        "x" * 5000,
    ],
)
def test_unsafe_paths_are_refused(root: Path, reference: str) -> None:
    assert reason_of(root, reference) == "unsafe_path"


def test_links_must_not_leave_the_folder(root: Path) -> None:
    (root / "inside").symlink_to(root / "coco")
    (root / "outside").symlink_to(root.parent)
    (root / "secret.jpg").symlink_to(root.parent / "secret.jpg")
    (root / "loop").symlink_to(root / "loop")
    assert read_image(root, "inside/1.jpg") == (root / "coco" / "1.jpg").read_bytes()
    assert reason_of(root, "outside/secret.jpg") == "unsafe_path"
    assert reason_of(root, "secret.jpg") == "unsafe_path"
    assert reason_of(root, "loop") == "missing_image"


def test_the_folder_itself_may_be_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert read_image(link, "coco/1.jpg") == (root / "coco" / "1.jpg").read_bytes()


def test_a_path_that_is_not_a_file_is_refused_without_opening_it(root: Path) -> None:
    os.mkfifo(root / "pipe.jpg")
    assert reason_of(root, "pipe.jpg") == "not_a_file"
    assert reason_of(root, "coco") == "not_a_file"
    assert reason_of(root, "coco/2.jpg") == "missing_image"
    assert reason_of(root, "coco/1.jpg/2.jpg") == "missing_image"


def test_a_huge_file_is_not_read(root: Path) -> None:
    with open(root / "huge.jpg", "wb") as stream:
        stream.truncate(10 << 30)  # a sparse file: takes no disk space
    assert reason_of(root, "huge.jpg") == "too_large"


def test_facts_of_good_and_bad_images(root: Path) -> None:
    (root / "turned.jpg").write_bytes(rotated_by_exif(6))
    (root / "bomb.png").write_bytes(bomb())
    (root / "empty.jpg").touch()
    turned = inspect_image(root, "turned.jpg")
    assert (turned.width, turned.height, turned.reason) == (20, 40, "")
    assert len(turned.sha256) == 64
    for name, reason in {"bomb.png": "too_many_pixels", "empty.jpg": "empty_file", "gone.jpg": "missing_image"}.items():
        facts = inspect_image(root, name)
        assert (facts.sha256, facts.reason) == ("", reason)
        assert name in facts.detail


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "coco", "1.jpg", "/", "\\", "~", "%2e%2e", "", "C:"]), max_size=6))
def test_no_path_resolves_outside_the_folder(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    root = tmp_path_factory.getbasetemp() / "fixed"
    root.mkdir(exist_ok=True)
    (root / "1.jpg").touch()
    try:
        path = resolve(root, "/".join(parts))
    except ImageError:
        return
    assert path.is_relative_to(root.resolve())
