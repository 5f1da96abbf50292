"""Image references: the words by which raw data names an image. They are not trusted: no path may leave the images.

A reference is repaired by named rules before it is called missing. The names of the rules are counted.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from model.errors import ImageError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(data|file):", re.IGNORECASE)
ROOT = re.compile(r"[/\\]|[A-Za-z]:[/\\]")  # also a Windows drive
MAX_PATH = 1024  # characters

DOT_PREFIX = "dot_prefix"
"""'./a.jpg' or 'x//a.jpg' names 'a.jpg', 'x/a.jpg'."""
FOLDER_ALIAS = "folder_alias"
"""The recipe says that a folder has another name."""
ABSOLUTE_PATH = "absolute_path"
"""The reference and the archive's member both begin with '/', or the member lost it."""
ARCHIVE_PREFIX = "archive_prefix"
"""The archive's members have an absolute folder of the machine that packed them before their path."""
ARCHIVE_FOLDER = "archive_folder"
"""The archive's members lack the folder that has the archive's name."""
UNICODE = "unicode"
"""The name differs in its Unicode form only (composed or decomposed)."""
CASE = "case"
"""The name differs in upper and lower case only."""


class Tidied(NamedTuple):
    """A reference after the rules that need no look at the images."""

    path: str
    repairs: tuple[str, ...]


def tidy(reference: str) -> str:
    """An image path without './' and doubled slashes, so that two spellings are one image.

    Absolute paths, URLs and paths with '..' are returned unchanged.
    """
    parts = [part for part in reference.split("/") if part not in ("", ".")]
    if reference.startswith("/") or ".." in parts or "://" in reference or not parts:
        return reference
    return "/".join(parts)


def tidied(reference: str, aliases: Mapping[str, str]) -> Tidied:
    """The reference without './' and doubled slashes, with the recipe's names of folders."""
    path = tidy(reference)
    repairs = () if path == reference else (DOT_PREFIX,)
    # The longest folder first: the order in which a recipe lists them must not matter, as it is in no id.
    for folder in sorted(aliases, key=len, reverse=True):
        start = f"{folder.rstrip('/')}/"
        if path.startswith(start):
            name, rest = aliases[folder], path[len(start) :]
            return Tidied(tidy(f"{name}/{rest}" if name else rest), (*repairs, FOLDER_ALIAS))
    return Tidied(path, repairs)


def check_safe(reference: str, absolute: bool = False) -> None:
    """Raise ImageError ('path_escape') if a reference could leave the images, or is no file name.

    absolute: allow '/' at its start, for archives, where it leads nowhere else.
    """
    problem = _unsafe(reference.lstrip("/") if absolute else reference)
    if problem:
        raise ImageError("path_escape", f"image {reference[:200]!r} {problem}")


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


def composed(path: str) -> str:
    """The path in Unicode's composed form (NFC)."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def only_like(name: str, candidates: Iterable[str]) -> tuple[str, str] | None:
    """The only candidate that differs in Unicode form, else in case, and the rule; None if there is none."""
    candidates = list(candidates)
    for rule, form in ((UNICODE, composed), (CASE, folded)):
        same = [other for other in candidates if form(other) == form(name)]
        if len(same) == 1:
            return same[0], rule
    return None


def folded(path: str) -> str:
    """The form in which paths are compared when nothing equal is found: composed and in lower case."""
    return path.lower() if path.isascii() else composed(composed(path).casefold())
