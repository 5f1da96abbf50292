"""A small value that several processes change by compare-and-swap: numbered JSON objects in one folder of a store.

Each change creates the object with the next number, only if it is absent, on a local disk and on an object store alike.
So of two writers that saw the same value, one succeeds, and the other sees that it did not. The value is the object
with the largest number; earlier ones stay as its history.
"""

import json
import re
from typing import Any

from pipeline.artifacts import filesystem
from pipeline.artifacts.patience import patiently
from pipeline.artifacts.spec import parsed

OBJECT = re.compile(r"([1-9][0-9]{0,8})\.json")
"""Name of one object: its number, from 1 on."""


class Numbered:
    """The numbered objects below one folder.

    Args:
        fs: the store's file system.
        folder: full path of the folder; it need not exist.
    """

    def __init__(self, fs: Any, folder: str) -> None:
        self._fs, self._folder = fs, folder

    def path(self, number: int) -> str:
        """Full path of one object."""
        return f"{self._folder}/{number}.json"

    def numbers(self) -> list[int]:
        """The numbers in use, sorted. One listing; no object is opened."""
        found = filesystem.files(
            self._fs, self._folder
        )  # not `ls`: for a missing folder s3fs lists the whole folder above it
        matches = (OBJECT.fullmatch(path.rpartition("/")[2]) for path in found)
        return sorted(int(match[1]) for match in matches if match)

    def current(self) -> int:
        """The largest number, or 0 if there is none."""
        return max(self.numbers(), default=0)

    def create(self, number: int, value: dict[str, Any]) -> bool:
        """Create one object. Returns False if its number is taken.

        If the store fails in the middle, the call is repeated; then an object with exactly this value counts as ours.
        """
        content = json.dumps(value, sort_keys=True).encode()
        made = patiently(self.path(number), lambda: filesystem.create_bytes(self._fs, self.path(number), content))
        return made or self._fs.cat_file(self.path(number)) == content

    def read(self, number: int) -> dict[str, Any] | None:
        """One object; None if it does not exist or is no JSON object."""
        try:
            value = parsed(self._fs.cat_file(self.path(number)))
        except (FileNotFoundError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def remove_before(self, number: int) -> None:
        """Remove the history before a number. The largest number must stay, because it says which one comes next."""
        for earlier in self.numbers():
            if earlier < number:
                filesystem.remove(self._fs, self.path(earlier))
