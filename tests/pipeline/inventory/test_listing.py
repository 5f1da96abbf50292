"""The members of archives as the inventory finds them: links, odd names, and the order of doubles."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

import pipeline.inventory.listing as listing
from pipeline.sources.table import DataSet
from tests.pipeline.sources.fixtures_pictures import encoded, halves
from tests.pipeline.steps.fixtures_single_step import Workshop, cambrian, chat, table

CHAT = chat(("<image>\nWhat is it?", "Two halves."))
PACKERS = {".tar": bytes, ".tar.gz": gzip.compress}


def picture(width: int) -> bytes:
    return encoded(halves(width, 8))


def packed(*members: tuple[str, bytes | tuple[bytes, str]]) -> bytes:
    """A tar archive of files, and of links given as (type, target)."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return sink.getvalue()


def widths(folder: Path, archive: str | bytes, content: bytes, *references: str) -> dict[str, int]:
    """The widths of the images that are found, each read again by its locator."""
    source = cambrian(folder, [{"id": name, "image": name, "conversations": CHAT} for name in references])
    Path(os.fsdecode(os.path.join(os.fsencode(folder / "images"), os.fsencode(archive)))).write_bytes(content)
    workshop = Workshop(folder, source)
    artifact = workshop.inventory(max_reject_share=0.9)
    images = DataSet(source, folder, artifact.location()).images()
    rows = table(artifact, "records/").to_pylist()
    assert all(images.read_checked(row["image"], row["image_sha256"]) for row in rows)
    return {row["given_id"]: row["width"] for row in rows}


@pytest.mark.parametrize("suffix", PACKERS)
def test_links_to_members_are_images_and_others_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(listing, "MEMBERS_AT_ONCE", 2)
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    content = packed(
        ("d/early.png", (soft, "../d/1.png")),
        ("d/1.png", picture(21)),
        ("./d/hard.png", (hard, "./d/1.png")),
        ("/d/rooted.png", (hard, "/d/1.png")),
        ("d/soft.png", (soft, "1.png")),
        ("d/chain.png", (soft, "soft.png")),
        ("loop.png", (soft, "pool.png")),
        ("pool.png", (soft, "loop.png")),
        ("out.png", (soft, "../../etc/passwd")),
        ("gone.png", (soft, "d/2.png")),
    )
    good = [f"d/{name}.png" for name in ("early", "1", "hard", "rooted", "soft", "chain")]
    bad = ["loop.png", "pool.png", "out.png", "gone.png"]
    assert widths(tmp_path, f"a{suffix}", PACKERS[suffix](content), *good, *bad) == dict.fromkeys(good, 21)


@pytest.mark.parametrize("suffix", PACKERS)
def test_names_that_are_not_utf8(tmp_path: Path, suffix: str) -> None:
    odd = os.fsdecode(b"d\xff/caf\xe9.png")
    content = packed((odd, picture(21)), ("d/2.png", picture(22)))
    found = widths(tmp_path, b"caf\xe9\n" + suffix.encode(), PACKERS[suffix](content), "d/2.png", "d\\xff/caf\\xe9.png")
    assert found == {"d/2.png": 22, "d\\xff/caf\\xe9.png": 21}


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_the_last_of_members_with_one_name_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(listing, "MEMBERS_AT_ONCE", at_once)
    content = packed(*(("1.png", picture(width)) for width in (21, 22, 23)))
    assert widths(tmp_path, "a.tar", content, "1.png") == {"1.png": 23}
