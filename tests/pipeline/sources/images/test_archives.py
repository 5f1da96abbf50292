"""Archives: their parts, their members' places, and damage."""

import bz2
import contextlib
import gzip
import itertools
import lzma
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import DataError
from pipeline.sources.images.archives import Archive, archives_in, find_archives
from pipeline.sources.images.members import Listing, Streamed
from pipeline.sources.images.store import read_range
from tests.pipeline.sources.images.fixtures_archives import gzipped, tar_bytes, write_parts

FILES = {f"coco/{n}.jpg": bytes([n]) * (300 * n) for n in range(6)} | {"x" * 150 + "/long.jpg": b"long name"}


def one(folder: Path) -> Archive:
    (archive,) = archives_in(str(folder))
    return archive


def contents(archive: Archive) -> dict[str, bytes]:
    return {member.name: read_range(archive, member.offset, member.size) for member in Listing(archive)}


def test_members_are_read_in_place(tmp_path: Path) -> None:
    (tmp_path / "coco.tar").write_bytes(tar_bytes(FILES))
    archive = one(tmp_path)
    assert (archive.name, archive.stem, archive.in_place) == ("coco.tar", "coco", True)
    assert contents(archive) == FILES
    assert contents(archives_in(str(tmp_path / "coco.tar"))[0]) == FILES


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4000), max_size=12))
def test_parts_may_end_anywhere(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder, "coco.tar", tar_bytes(FILES), sizes)
    listing = Listing(one(folder))
    assert [member.name for member in listing] == list(FILES)
    assert not listing.damage
    assert contents(one(folder)) == FILES


def test_parts_are_put_in_the_order_of_their_numbers() -> None:
    names = [
        "a.tar_part10",
        *(f"a.tar_part{n}" for n in range(1, 10)),
        "b.tar.gz_part1",
        "c.tar.partab",
        "c.tar.partaa",
    ]
    first, second, third = find_archives([(name, f"/x/{name}") for name in names])
    assert [path.split("part")[1] for path in first.parts] == [str(n) for n in range(1, 11)]
    assert (second.name, second.in_place) == ("b.tar.gz", False)
    assert [path[-2:] for path in third.parts] == ["aa", "ab"]
    assert (
        find_archives([("a.tar.txt", "a"), ("tar", "b"), ("my.target.jpg", "c"), ("x.tar.md5", "d"), ("x.tar.lz", "e")])
        == []
    )


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a.tar_part1", "a.tar_part3"], "part 2 of a.tar is missing"),
        (["a.tar_part2", "a.tar_part3"], "part 1 of a.tar is missing"),
        (["a.tar", "a.tar_part1"], "there is a.tar and also its parts 1"),
        (["a.tar_part1", "a.tar_part01", "a.tar_part2"], "a part of a.tar is there twice: 01, 1, 2"),
        (["a.tar_part1", "a.tar.part1"], "a part of a.tar is there twice: 1, 1"),
        (["a.tar_part_aa", "a.tar_part_ac"], "part ab of a.tar is missing"),
        (["a.tar_part_az", "a.tar_part_ba"], "part aa of a.tar is missing"),
        (["a.tar_part_aa", "a.tar_part1"], "counted in two ways: 1, aa"),
    ],
)
def test_missing_and_doubled_parts_are_errors(names: list[str], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        find_archives([(name, name) for name in names])


def test_what_follows_the_end_marker_is_said(tmp_path: Path) -> None:
    for suffix, pack in ((".tar", bytes), (".tgz", gzipped)):
        archive = _written(tmp_path, "two", pack(tar_bytes(FILES) + tar_bytes({"lost.jpg": b"x"})), suffix)
        listing = Listing(archive) if archive.in_place else Streamed(archive)
        assert len(list(listing)) == len(FILES)
        assert "goes on after its end marker" in listing.damage


def test_one_part_is_not_an_archive(tmp_path: Path) -> None:
    write_parts(tmp_path, "a.tar", tar_bytes(FILES), [700])
    for part in (1, 2):
        with pytest.raises(DataError, match="one part of an archive; give the folder"):
            archives_in(str(tmp_path / f"a.tar_part{part}"))


def test_a_tar_that_is_cut_anywhere_gives_the_members_before_the_cut(tmp_path: Path) -> None:
    whole = tar_bytes(FILES)
    ends = {m.name: m.offset + m.size for m in Listing(_written(tmp_path, "whole", whole))}
    end_of_data = max(ends.values())
    for cut in (*range(600, end_of_data, 517), end_of_data):
        listing = Listing(_written(tmp_path, f"cut{cut}", whole[:cut]))
        names = [member.name for member in listing]
        good = [name for name, end in ends.items() if end <= cut]
        assert names[: len(good)] == good
        assert len(names) <= len(good) + 1, "at most the member that is cut"
        assert "cut off" in listing.damage, cut
    listing = Listing(_written(tmp_path, "whole2", whole))
    assert list(listing)
    assert listing.damage == ""


def test_a_damaged_header_is_told_from_the_end(tmp_path: Path) -> None:
    whole = bytearray(tar_bytes(FILES))
    at = whole.index(b"coco/3.jpg")
    whole[at : at + 40] = b"\xff" * 40
    listing = Listing(_written(tmp_path, "a", bytes(whole)))
    assert [member.name for member in listing] == ["coco/0.jpg", "coco/1.jpg", "coco/2.jpg"]
    assert listing.damage == f"it is damaged from byte {at} on"


@pytest.mark.parametrize("size", [-1, -512, -1024, -2048, 2**62, 2**80])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, b"~", tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_a_header_with_an_impossible_size_ends_the_archive(tmp_path: Path, size: int, kind: bytes, suffix: str) -> None:
    start, end = tar_bytes({"1.jpg": b"1" * 1024})[:1536], tar_bytes({"2.jpg": b"2"})
    for before, names in ((start, ["1.jpg"]), (b"", [])):
        content = before + sized_header(size, kind) + end
        archive = _written(tmp_path, "bad", gzipped(content) if suffix == ".tgz" else content, suffix)
        listing = Listing(archive) if archive.in_place else Streamed(archive)
        with contextlib.nullcontext() if before else contextlib.suppress(DataError):
            found = [member[0] for member in itertools.islice(listing, 10)]
            # tarfile passes over some headers without content; then there is one more member.
            assert found[: len(names)] == names
            assert len(found) <= len(names) + 1
            assert listing.damage or len(found) > len(names)


def sized_header(size: int, kind: bytes) -> bytes:
    """A header that claims any size."""
    info = tarfile.TarInfo("odd.jpg")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (size % (1 << 96)).to_bytes(12, "big") if size < 0 else b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_what_is_no_archive_is_an_error(tmp_path: Path) -> None:
    for content, problem in (
        (b"", "no tar archive"),
        (b"<html>not found</html>" * 100, "no tar archive"),
        (gzipped(tar_bytes(FILES)), r"is gzipped; name it \.tar\.gz"),
    ):
        with pytest.raises(DataError, match=problem):
            list(Listing(_written(tmp_path, "bad", content)))
    (tmp_path / "bad.tar.gz").write_bytes(b"<html>" * 1000)
    with pytest.raises(DataError, match="no compressed tar archive"):
        list(Streamed(Archive("bad.tar.gz", (str(tmp_path / "bad.tar.gz"),))))
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"no \.tar or \.tar\.gz archive"):
        archives_in(str(tmp_path / "a.zip"))


def test_a_gzipped_archive_is_streamed_also_in_parts(tmp_path: Path) -> None:
    whole = tar_bytes(FILES)
    write_parts(tmp_path, "coco.tar.gz", gzipped(whole), [100, 7])
    assert dict(Streamed(one(tmp_path))) == FILES
    for suffix, content in {
        ".tgz": gzipped(whole),
        ".tar.bz2": bz2.compress(whole),
        ".tar.xz": lzma.compress(whole),
    }.items():
        good = Streamed(_written(tmp_path, "good", content, suffix))
        assert (dict(good), good.damage) == (FILES, "")


def test_a_compressed_archive_that_is_cut_says_so(tmp_path: Path) -> None:
    whole = tar_bytes(FILES)
    content = gzip.compress(whole, compresslevel=0)
    for name, cut in {
        "outside": content[: len(content) // 2],
        "inside": gzipped(whole[: whole.index(b"coco/3.jpg")]),
    }.items():
        found = Streamed(_written(tmp_path, name, cut, ".tgz"))
        some = dict(found)
        assert some.items() <= FILES.items()
        assert 0 < len(some) < len(FILES)
        assert "cut off or damaged" in found.damage


def _written(folder: Path, name: str, content: bytes, suffix: str = ".tar") -> Archive:
    path = folder / f"{name}{suffix}"
    path.write_bytes(content)
    return Archive(path.name, (str(path),))
