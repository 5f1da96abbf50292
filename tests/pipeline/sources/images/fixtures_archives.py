"""Archives of images, made in memory."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path


def tar_bytes(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """A plain tar archive; `links` are hard links: name -> member."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            tar.addfile(info)
    return sink.getvalue()


def write_parts(folder: Path, name: str, content: bytes, sizes: list[int]) -> None:
    """Write an archive in parts: NAME_part1 and so on; the last one gets the rest."""
    start = 0
    for number, size in enumerate([*sizes, len(content)], start=1):
        (folder / f"{name}_part{number}").write_bytes(content[start : start + size])
        start += size


def gzipped(content: bytes) -> bytes:
    """The same bytes for the same content."""
    return gzip.compress(content, mtime=0)
