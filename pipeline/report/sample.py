"""A sample of rows of masks: a few of each status and reason, in the order of a hash of their keys."""

import hashlib
from bisect import insort
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from typing import Any

Row = dict[str, Any]
"""Columns of one row of MASKS; `reason` is the name of a gate or an error."""
KEPT = 48
"""Rows of each status and reason that may become pictures: not every image is at hand."""


class Sample:
    """Of each status and reason the first `size` rows, in the order of a hash of their keys."""

    def __init__(self, size: int = KEPT) -> None:
        self._size = size
        self._groups: dict[tuple[str, str], list[tuple[bytes, Row]]] = {}

    def add(self, row: Row) -> bool:
        """Take the row if it is among the first of its group. Returns True if it is."""
        order = order_of(row)
        group = self._groups.setdefault((row["status"], row["reason"]), [])
        if len(group) == self._size and order > group[-1][0]:
            return False
        insort(group, (order, row), key=lambda item: item[0])
        del group[self._size :]
        return True

    def rows(self) -> Iterator[Row]:
        """Every row that it holds."""
        return (row for group in self._groups.values() for _, row in group)

    def images(self) -> set[str]:
        """Ids of the samples whose images could be shown."""
        return {row["sample_id"] for row in self.rows()}

    def choose(self, wanted: dict[str, int], among: Iterable[str] | None = None) -> list[Row]:
        """Rows to show, by status. The reasons of a status take turns, so that each is seen.

        among: only rows of these samples; None takes all.
        """
        chosen: list[Row] = []
        for status, number in wanted.items():
            queues = [
                [row for _, row in group if among is None or row["sample_id"] in among]
                for (found, _), group in sorted(self._groups.items())
                if found == status
            ]
            chosen += [row for row in chain(*zip_longest(*queues)) if row is not None][:number]
        return chosen


def order_of(row: Row) -> bytes:
    """The hash of a row's key: rows in its order are in a fixed random order."""
    return hashlib.sha256("\0".join(map(str, key_of(row))).encode()).digest()


def key_of(row: Row) -> tuple[str, int, str]:
    """The key of a row of MASKS."""
    return row["sample_id"], row["turn"], row["query_kind"]
