"""Finding images in archives: exactly, and by named rules."""

from pathlib import Path

import pytest

from model.errors import ImageError
from pipeline.sources.images.finder import Finder
from pipeline.sources.images.store import ImageStore


def finder(location: Path, stem: str, prefix: str, *members: str, aliases: dict[str, str] | None = None) -> Finder:
    found = Finder(ImageStore(str(location), aliases=aliases or {}))
    found.prefixes[f"{stem}.tar"] = (stem, prefix)
    found.add((member, f"tar://{stem}.tar#0+1#{member}") for member in members)
    return found


PACKED = "mnt/disks/storage/data/pretrain_data/2.5m_v2/allava"
CASES = {
    "exact": ("coco", "coco", ["coco/1.jpg"], "coco/1.jpg", "coco/1.jpg", ()),
    "dot": ("coco", "coco", ["coco/1.jpg"], "./coco/1.jpg", "coco/1.jpg", ("dot_prefix",)),
    "prefix": ("allava", PACKED, [f"{PACKED}/1.jpg"], "allava/1.jpg", f"{PACKED}/1.jpg", ("archive_prefix",)),
    "absolute": ("x", "mnt/a", ["mnt/a/1.jpg"], "/mnt/a/1.jpg", "mnt/a/1.jpg", ("absolute_path",)),
    "no folder": ("coco", "", ["1.jpg", "train/2.jpg"], "coco/train/2.jpg", "train/2.jpg", ("archive_folder",)),
    "case": ("web", "web", ["web/Star/1.JPG"], "web/star/1.jpg", "web/Star/1.JPG", ("case",)),
    "unicode": ("web", "web", ["web/caf\u00e9.jpg"], "web/cafe\u0301.jpg", "web/caf\u00e9.jpg", ("unicode",)),
    "prefix and case": ("a", "mnt/A", ["mnt/A/1.jpg"], "a/1.jpg", "mnt/A/1.jpg", ("archive_prefix", "case")),
}


@pytest.mark.parametrize(("stem", "prefix", "members", "reference", "expected", "repairs"), CASES.values(), ids=CASES)
def test_rules(
    tmp_path: Path,
    stem: str,
    prefix: str,
    members: list[str],
    reference: str,
    expected: str,
    repairs: tuple[str, ...],
) -> None:
    place = finder(tmp_path, stem, prefix, *members).find(reference)
    assert place.locator.endswith(f"#{expected}")
    assert place.repairs == repairs


def reason_of(found: Finder, reference: str) -> str:
    with pytest.raises(ImageError) as caught:
        found.find(reference)
    return caught.value.reason


def test_what_could_be_two_images_is_missing(tmp_path: Path) -> None:
    found = finder(tmp_path, "web", "web", "web/A.jpg", "web/a.JPG")
    assert reason_of(found, "web/a.jpg") == "missing_image"
    assert reason_of(found, "web/b.jpg") == "missing_image"
    assert reason_of(found, "A.jpg/x") == "missing_image"


def test_unsafe_references_are_refused(tmp_path: Path) -> None:
    found = finder(tmp_path, "web", "", "../secret.jpg", "etc/passwd")
    for reference in ("../secret.jpg", "a/../../secret.jpg", "http://x/1.jpg", "", "a\0b"):
        assert reason_of(found, reference) == "path_escape"


def test_a_file_in_the_folder_goes_before_an_archive(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "1.jpg").touch()
    found = finder(tmp_path, "coco", "coco", "coco/1.jpg", "coco/2.jpg")
    assert found.find("coco/1.jpg").locator == "coco/1.jpg"
    assert found.find("coco/2.jpg").locator == "tar://coco.tar#0+1#coco/2.jpg"
    (tmp_path / "coco" / "2.JPG").touch()
    assert found.find("coco/2.jpg").locator == "tar://coco.tar#0+1#coco/2.jpg", "no repair where a name is exact"
    assert found.find("coco/2.jPg").locator == "coco/2.JPG"


def test_the_later_member_and_the_first_archive_count(tmp_path: Path) -> None:
    found = Finder(ImageStore(str(tmp_path)))
    found.prefixes = {"a.tar": ("a", ""), "b.tar": ("b", "")}
    found.add([("1.jpg", "tar://a.tar#0+1#1.jpg"), ("1.jpg", "tar://a.tar#9+1#1.jpg")])
    found.add([("1.jpg", "tar://b.tar#0+1#1.jpg")])
    assert found.find("1.jpg").locator == "tar://a.tar#9+1#1.jpg"
