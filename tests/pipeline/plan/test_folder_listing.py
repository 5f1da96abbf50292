"""Listings of folders: they depend on names and sizes, not on time, place or order."""

import errno
import os
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan.folder_listing import listing

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


def test_an_unreadable_folder_is_part_of_the_listing_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    grow(images, {"a.jpg": 1})
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
    with pytest.raises(PermissionError):
        listing(images)
