"""Archives made to do harm: nothing is written or opened outside of them, and what is odd is left out or said."""

import gzip
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from pipeline.sources.images.archives import Archive
from pipeline.sources.images.members import Listing, Streamed

SECRET = b"not for you"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"x", **pax: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, pax
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    padded = content + bytes(-len(content) % 512) if info.size else b""
    return info.tobuf(tarfile.PAX_FORMAT) + padded


def write(folder: Path, suffix: str, *members: bytes) -> Archive:
    content = b"".join(members) + bytes(1024)
    path = folder / f"a.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    return Archive(path.name, (str(path),))


def read(archive: Archive) -> tuple[list[tuple[str, bytes]], dict[str, list[str]], str]:
    """Name and bytes of every member, names of links, and the damage."""
    if not archive.in_place:
        streamed = Streamed(archive)
        return list(streamed), dict(streamed.links.names()), streamed.damage
    listing = Listing(archive)
    found = list(listing)
    with archive.open() as stream:
        contents = []
        for one in found:
            stream.seek(one.offset)
            contents.append((one.name, stream.read(one.size)))
    return contents, dict(listing.links.names()), listing.damage


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_only_regular_members_are_read_and_nothing_is_written(tmp_path: Path, suffix: str) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(SECRET)
    names = ["/etc/passwd", "../secret.jpg", "a/../../secret.jpg", "line\nbreak.jpg", "x" * 10_000, "A.jpg", "a.jpg"]
    archive = write(
        tmp_path, suffix, *(member(name, content=name[:9].encode()) for name in names),
        member("twice.jpg", content=b"first"), member("twice.jpg", content=b"second"),
        member("real.jpg", path="../override.jpg"),
        member("out.jpg", tarfile.SYMTYPE, str(secret)), member("up.jpg", tarfile.SYMTYPE, "../secret.jpg"),
        member("hard.jpg", tarfile.LNKTYPE, str(secret)), member("self.jpg", tarfile.SYMTYPE, "self.jpg"),
        *(member(f"odd{n}", kind) for n, kind in enumerate((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE))),
        member("folder.jpg", tarfile.DIRTYPE),
    )  # fmt: skip
    before = sorted(tmp_path.iterdir())
    found, links, damage = read(archive)
    assert damage == ""
    assert [name for name, _ in found] == [*names, "twice.jpg", "twice.jpg", "../override.jpg"]
    assert SECRET not in b"".join(content for _, content in found)
    assert sorted(tmp_path.iterdir()) == before
    assert "self.jpg" not in links


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_huge_extension_of_a_header_is_not_read_into_memory(tmp_path: Path, suffix: str, kind: bytes) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, 1 << 25
    archive = write(tmp_path, suffix, member("good.jpg"), info.tobuf(tarfile.GNU_FORMAT), bytes(1 << 25))
    tracemalloc.start()
    try:
        found, _, damage = read(archive)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
    assert [name for name, _ in found] == ["good.jpg"]
    assert f"{1 << 25} bytes" in damage
