"""Locators: where exactly the bytes of an image are, as text. The inventory stores one for each record.

    coco/1.jpg                                  a file below the images' folder
    tar://coco.tar#1536+88123#coco/1.jpg        88123 bytes from byte 1536 of an archive, and the member's name
    kept://images/archive-00000-00003.parquet#12#coco/1.jpg   row 12 of a file of the inventory's own

A file's own path can't be one of the others, because references that look like a URL are refused.
"""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

_TAR = re.compile(r"tar://([^#]*)#(\d+)\+(\d+)#(.*)", re.DOTALL)
_KEPT = re.compile(r"kept://([^#]*)#(\d+)#(.*)", re.DOTALL)


class TarPlace(NamedTuple):
    """Bytes of an archive that is read in place."""

    archive: str
    """The archive's name in the images' folder."""
    offset: int
    size: int
    name: str

    def text(self) -> str:
        """The locator."""
        archive = quote(self.archive, errors="surrogateescape")  # a file's name need not be UTF-8
        return f"tar://{archive}#{self.offset}+{self.size}#{self.name}"


class KeptPlace(NamedTuple):
    """A row of a Parquet file that the inventory wrote."""

    file: str
    row: int
    name: str

    def text(self) -> str:
        """The locator."""
        return f"kept://{quote(self.file)}#{self.row}#{self.name}"


def parse_locator(locator: str) -> TarPlace | KeptPlace | str:
    """The place that a locator names; a file's path is returned unchanged."""
    if found := _TAR.fullmatch(locator):
        return TarPlace(unquote(found[1], errors="surrogateescape"), int(found[2]), int(found[3]), found[4])
    if found := _KEPT.fullmatch(locator):
        return KeptPlace(unquote(found[1]), int(found[2]), found[3])
    return locator


def image_name(locator: str) -> str:
    """The path of an image for people: without the place in its archive."""
    place = parse_locator(locator)
    return place if isinstance(place, str) else place.name
