"""Paths of an untrusted data set."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import DataError, ImageError
from pipeline.sources.images.finder import Finder
from pipeline.sources.images.folders import LocalFolder, Names
from pipeline.sources.images.references import CASE, tidied
from pipeline.sources.images.store import ImageStore
from tests.pipeline.sources.fixtures_pictures import encoded, halves


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "coco").mkdir(parents=True)
    (folder / "coco" / "1.jpg").write_bytes(encoded(halves(), "JPEG"))
    (tmp_path / "secret.jpg").write_bytes(encoded(halves(), "JPEG"))
    return folder


def found(root: Path, reference: str) -> tuple[str, tuple[str, ...]]:
    place = Finder(ImageStore(str(root))).find(reference)
    return place.locator, place.repairs


def reason_of(root: Path, reference: str) -> str:
    with pytest.raises(ImageError) as caught:
        found(root, reference)
    return caught.value.reason


def test_a_path_below_the_folder(root: Path) -> None:
    assert found(root, "coco/1.jpg") == ("coco/1.jpg", ())
    assert found(root, "./coco//./1.jpg") == ("coco/1.jpg", ("dot_prefix",))
    assert ImageStore(str(root)).read("coco/1.jpg") == (root / "coco" / "1.jpg").read_bytes()


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
    assert reason_of(root, reference) == "path_escape"


def test_links_must_not_leave_the_folder(root: Path) -> None:
    (root / "inside").symlink_to(root / "coco")
    (root / "outside").symlink_to(root.parent)
    (root / "secret.jpg").symlink_to(root.parent / "secret.jpg")
    (root / "loop").symlink_to(root / "loop")
    assert ImageStore(str(root)).read("inside/1.jpg") == (root / "coco" / "1.jpg").read_bytes()
    assert reason_of(root, "outside/secret.jpg") == "path_escape"
    assert reason_of(root, "secret.jpg") == "path_escape"
    assert reason_of(root, "loop") == "missing_image"


def test_the_folder_itself_may_be_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert ImageStore(str(link)).read("coco/1.jpg") == (root / "coco" / "1.jpg").read_bytes()


def test_a_path_that_is_not_a_file_is_refused_without_opening_it(root: Path) -> None:
    os.mkfifo(root / "pipe.jpg")
    assert reason_of(root, "pipe.jpg") == "not_a_file"
    assert reason_of(root, "coco") == "not_a_file"
    assert reason_of(root, "coco/2.jpg") == "missing_image"
    assert reason_of(root, "coco/1.jpg/2.jpg") == "missing_image"


def test_a_huge_file_is_not_read(root: Path) -> None:
    with open(root / "huge.jpg", "wb") as stream:
        stream.truncate(10 << 30)  # a sparse file: takes no disk space
    with pytest.raises(ImageError) as caught:
        ImageStore(str(root)).read("huge.jpg")
    assert caught.value.reason == "too_large"


def test_names_that_differ_in_case_or_unicode_form_are_found(root: Path) -> None:
    (root / "Web" / "caf\u00e9").mkdir(parents=True)
    (root / "Web" / "caf\u00e9" / "A.JPG").touch()
    assert found(root, "web/cafe\u0301/a.jpg") == ("Web/caf\u00e9/A.JPG", ("case", "unicode"))
    assert found(root, "Web/cafe\u0301/A.JPG") == ("Web/caf\u00e9/A.JPG", ("unicode",))
    assert found(root, "COCO/1.jpg") == ("coco/1.jpg", ("case",))
    (root / "Coco").mkdir()
    assert reason_of(root, "COCO/1.jpg") == "missing_image", "two folders are like it"
    assert found(root, "coco/1.jpg") == ("coco/1.jpg", ())


def test_a_folder_that_the_recipe_names_otherwise(root: Path) -> None:
    place = Finder(ImageStore(str(root), aliases={"sbu": "coco"})).find("./sbu/1.jpg")
    assert (place.locator, place.repairs) == ("coco/1.jpg", ("dot_prefix", "folder_alias"))


def test_a_folder_that_is_gone_or_does_not_answer_is_no_missing_image(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = LocalFolder(str(root))
    folder.check_there()
    with pytest.raises(DataError, match="is gone"):
        LocalFolder(str(root / "unmounted")).check_there()

    def stale(path: str) -> os.stat_result:
        raise OSError(errno.ESTALE, "Stale file handle", path)

    monkeypatch.setattr(os, "stat", stale)
    with pytest.raises(DataError, match="cannot be read now"):
        folder.find("coco/1.jpg")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "coco", "1.jpg", "/", "\\", "~", "%2e%2e", "", "C:"]), max_size=6))
def test_no_path_resolves_outside_the_folder(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    root = tmp_path_factory.getbasetemp() / "fixed"
    root.mkdir(exist_ok=True)
    (root / "1.jpg").touch()
    try:
        path, _ = found(root, "/".join(parts))
    except ImageError:
        return
    assert (root / path).resolve().is_relative_to(root.resolve())


@pytest.mark.parametrize("turned", [False, True])
def test_folder_aliases_do_not_depend_on_their_order_or_on_slashes(turned: bool) -> None:
    given = {"a": "x", "a/b": "y", "c/": "z/", "d": "", "e": "/etc"}
    aliases = dict(reversed(given.items())) if turned else given
    found = {name: tidied(name, aliases).path for name in ("a/1", "a/b/1", "./c/1", "d/1", "e/1", "f/1")}
    assert list(found.values()) == ["x/1", "y/1", "z/1", "1", "/etc/1", "f/1"]


def test_many_missing_images_in_a_large_folder_take_no_time_for_each_of_its_names() -> None:
    names = Names(f"{n}.jpg" for n in range(100000))
    assert [names.find(f"m{n}.jpg") for n in range(20000)] == [("", "")] * 20000
    assert names.find("7.JPG") == ("7.jpg", CASE)
