"""Finds and reads the image of a record. The data set is not trusted: no path may leave the image folder."""

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.images import MAX_BYTES, ImageError, decode_image

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(data|file):", re.IGNORECASE)
ROOT = re.compile(r"[/\\]|[A-Za-z]:[/\\]")  # also a Windows drive
MAX_PATH = 1024  # characters
IMAGE_CHANGED = "image_changed"


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts about an image for the inventory, or the reason why it cannot be used."""

    sha256: str = ""
    """SHA-256 of the file's bytes."""
    width: int = 0
    """Pixels, after EXIF rotation; as is the height."""
    height: int = 0
    reason: str = ""
    """Empty if the image is good."""
    detail: str = ""


def resolve(root: Path, reference: str) -> Path:
    """The file below `root` that a record's image reference names. Symbolic links must not leave `root`.

    Raises ImageError with reason 'unsafe_path', 'missing_image' or 'not_a_file'.
    """
    problem = _unsafe(reference)
    if problem:
        raise ImageError("unsafe_path", f"image {reference[:200]!r} {problem}")
    real_root = os.path.realpath(root)
    path = os.path.realpath(os.path.join(real_root, reference))
    if os.path.commonpath([real_root, path]) != real_root:
        raise ImageError("unsafe_path", f"image {reference!r} is a link out of the image folder")
    try:
        status = os.stat(path)
    except OSError as error:
        raise ImageError("missing_image", f"image {reference!r}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe or device would hang
        raise ImageError("not_a_file", f"image {reference!r} is not a regular file")
    return Path(path)


def _unsafe(reference: str) -> str:
    if not reference or len(reference) > MAX_PATH:
        return f"has {len(reference)} characters"
    if "\0" in reference or not _encodable(reference):
        return "is no file name"
    if URL.match(reference):
        return "is a URL"
    if ROOT.match(reference):
        return "is an absolute path"
    if ".." in re.split(r"[/\\]", reference):
        return "leaves the image folder"
    return ""


def _encodable(reference: str) -> bool:
    try:
        reference.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_image(root: Path, reference: str) -> bytes:
    """The bytes of a record's image file. Raises ImageError as `resolve`, or for reason 'too_large' or 'unreadable'."""
    path = resolve(root, reference)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError("too_large", f"image {reference!r} has {size} bytes, more than {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise ImageError("unreadable", f"image {reference!r}: {error.strerror}") from error


def read_image_of(root: Path, reference: str, sha256: str) -> bytes:
    """The bytes of a record's image file, checked against the SHA-256 in the inventory.

    Raises ImageError with reason 'image_changed' for other bytes, else as `read_image`.
    """
    data = read_image(root, reference)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ImageError(
            IMAGE_CHANGED, f"image {reference!r} changed since the inventory: sha256 {found[:12]}, not {sha256[:12]}"
        )
    return data


def inspect_image(root: Path, reference: str) -> ImageFacts:
    """Read, hash and decode an image. Does not raise for a bad image: the facts then have the reason."""
    try:
        data = read_image(root, reference)
    except ImageError as error:
        return ImageFacts(reason=error.reason, detail=str(error))
    try:
        width, height = decode_image(data).size
    except ImageError as error:
        return ImageFacts(reason=error.reason, detail=f"image {reference!r}: {error}")
    return ImageFacts(hashlib.sha256(data).hexdigest(), width, height)


def inspect_images(root: Path, references: Sequence[str]) -> list[ImageFacts]:
    """The facts of several images, in order: the unit of work of one task."""
    return [inspect_image(root, reference) for reference in references]
