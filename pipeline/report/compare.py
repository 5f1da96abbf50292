"""The comparison of two artifacts of masks: what a rerun with other gates, prompts or teachers changed, row by row.

A row is a query: sample, turn and kind of text. Its outcome is 'ok', 'no_region', or the name of a gate or an error.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any

import pyarrow as pa

from model.errors import ArtifactError
from model.teachers import rle
from pipeline.artifacts.store import Artifact
from pipeline.masks.statistics import distribution, reason_name
from pipeline.masks.teachers.table import settings_read
from pipeline.report.collect import read_tables

KEYS = ("sample_id", "turn", "query_kind")
COLUMNS = [*KEYS, "query", "image_sha256", "height", "width", "status", "reason", "rle", "area"]
PICTURES = 50
Row = dict[str, Any]
Rank = tuple[float, float]
"""The size of the change of a query's mask: 1 - IoU, then the area that changed, fraction of the image."""


@dataclass(frozen=True)
class Change:
    """One query whose mask was lost, gained or changed."""

    kind: str
    """'lost', 'gained' or 'changed'."""
    rank: Rank
    before: Row
    after: Row

    @property
    def iou(self) -> float:
        """IoU of both masks; 0 if there is only one."""
        return 1.0 - self.rank[0]


@dataclass
class Comparison:
    """The counts of a comparison, and the queries that changed."""

    before: Artifact
    after: Artifact
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(outcome before, outcome after) -> rows that both have."""
    only_before: Counter[str] = field(default_factory=Counter)
    """Outcome -> rows that only the first has."""
    only_after: Counter[str] = field(default_factory=Counter)
    other_text: int = 0
    """Rows of both whose text differs."""
    other_frame: int = 0
    """Rows of both whose image has another size; their masks are not compared."""
    equal: int = 0
    """Masks that are the same to the pixel."""
    ious: list[float] = field(default_factory=list)
    """IoU of the masks that both have."""
    changes: list[Change] = field(default_factory=list)

    @property
    def both(self) -> int:
        """Rows that both have."""
        return self.moves.total()

    @property
    def nothing_changed(self) -> bool:
        """True if both have the same rows with the same texts, outcomes and masks."""
        moved = any(old != new for old, new in self.moves)
        return not (moved or self.only_before or self.only_after or self.other_text or self.other_frame or self.changes)

    @property
    def gained(self) -> dict[str, int]:
        """Outcome before -> rows that have a mask only now, the most first."""
        return _by_count({old: n for (old, new), n in self.moves.items() if new == "ok" != old})

    @property
    def lost(self) -> dict[str, int]:
        """Outcome now -> rows that had a mask only before, the most first."""
        return _by_count({new: n for (old, new), n in self.moves.items() if old == "ok" != new})

    @property
    def other_moves(self) -> dict[tuple[str, str], int]:
        """Rows without a mask before and after, whose reason changed."""
        return {k: n for k, n in self.moves.most_common() if k[0] != k[1] and "ok" not in k}

    @property
    def agreement(self) -> dict[str, Any]:
        """Distribution of the IoU of the masks that both have."""
        return distribution(self.ious)

    def settings(self) -> list[tuple[str, Any, Any]]:
        """Parameters of the gates and teachers that differ: name, before, after."""
        old, new = _settings(self.before), _settings(self.after)
        return [(n, old.get(n), new.get(n)) for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n)]

    def pictures(self, number: int = PICTURES) -> list[Change]:
        """The changes to show, at most one a picture: lost, gained and changed masks take turns, the largest first."""
        queues: dict[str, list[Change]] = {"lost": [], "gained": [], "changed": []}
        for change in sorted(self.changes, key=_place):
            queues[change.kind].append(change)
        shown: dict[str, Change] = {}
        for change in chain(*zip_longest(*queues.values())):
            if change is not None and len(shown) < number:
                shown.setdefault(change.before["image_sha256"], change)
        return list(shown.values())


def compare(before: Artifact, after: Artifact) -> Comparison:
    """Compare two artifacts of masks. The second is held in memory as a table, the first is read part by part.

    Raises ArtifactError if one is of another kind.
    """
    for artifact in (before, after):
        if artifact.ref.kind != "masks":
            raise ArtifactError(
                f"{artifact.ref} is of kind {artifact.ref.kind}, but only masks are compared; "
                "'agevlm artifacts --kind masks' lists them"
            )
    table = pa.concat_tables(read_tables(after, "part-", COLUMNS)) if after.matching("part-", ".parquet") else None
    rows = _Rows(table)
    found = Comparison(before, after)
    for old in _rows_of(before):
        index = rows.take(old)
        if index is None:
            found.only_before[outcome(old)] += 1
        else:
            _compare_row(found, old, rows[index])
    for new in rows.left():
        found.only_after[outcome(new)] += 1
    return found


def outcome(row: Row) -> str:
    """The name that a row is counted by: 'ok', 'no_region', or the name of a gate or an error."""
    return str(row["status"]) if row["status"] in ("ok", "no_region") else reason_name(row["reason"])


class _Rows:
    """The rows of a table, found by their keys. Values are made only for a row that is asked for."""

    def __init__(self, table: pa.Table | None) -> None:
        self._columns = {} if table is None else {name: table[name].to_pylist() for name in COLUMNS}
        keys = zip(*(self._columns[name] for name in KEYS), strict=True) if self._columns else iter(())
        self._index = {key: position for position, key in enumerate(keys)}

    def __getitem__(self, position: int) -> Row:
        return {name: values[position] for name, values in self._columns.items()}

    def take(self, row: Row) -> int | None:
        """The position of the row with the same key, which is not left any more; None if there is none."""
        return self._index.pop(tuple(row[name] for name in KEYS), None)

    def left(self) -> Iterator[Row]:
        """The rows that were not taken."""
        return (self[position] for position in self._index.values())


def _rows_of(masks: Artifact) -> Iterator[Row]:
    for table in read_tables(masks, "part-", COLUMNS):
        columns = [table[name].to_pylist() for name in COLUMNS]
        for values in zip(*columns, strict=True):
            yield dict(zip(COLUMNS, values, strict=True))


def _compare_row(found: Comparison, old: Row, new: Row) -> None:
    had, has = old["status"] == "ok", new["status"] == "ok"
    found.moves[outcome(old), outcome(new)] += 1
    found.other_text += old["query"] != new["query"]
    size = old["height"], old["width"]
    if size != (new["height"], new["width"]):
        found.other_frame += 1
        return
    pixels = size[0] * size[1]
    if had and has:
        if old["rle"] == new["rle"]:  # most rows of a rerun with other gates
            found.equal += 1
            found.ious.append(1.0)
            return
        iou = rle.iou(old["rle"], new["rle"], *size)
        found.ious.append(iou)
        # |A or B| - |A and B|, from both areas and the IoU
        both = iou * (old["area"] + new["area"]) / (1 + iou)
        found.changes.append(Change("changed", (1 - iou, (old["area"] + new["area"] - 2 * both) / pixels), old, new))
    elif had or has:
        area = (old if had else new)["area"] or 0
        found.changes.append(Change("lost" if had else "gained", (1.0, area / pixels), old, new))


def _place(change: Change) -> tuple[Any, ...]:
    """Sorts the largest changes to the front."""
    return -change.rank[0], -change.rank[1], *(change.before[name] for name in KEYS)


def _by_count(numbers: dict[str, int]) -> dict[str, int]:
    return dict(sorted(numbers.items(), key=lambda item: (-item[1], item[0])))


def _settings(masks: Artifact) -> dict[str, Any]:
    """The parameters of the gates, of the teachers and of the subset that masks were made with."""
    found: dict[str, Any] = dict(masks.manifest.spec.params.get("gates", {}))
    segments = _parent(masks, "segments")
    if segments is not None:
        params = segments.manifest.spec.params
        found |= settings_read(params) | {name: v for name, v in params.items() if isinstance(v, str)}
        subset = _parent(segments, "subset")
        found |= {} if subset is None else {f"subset {name}": v for name, v in subset.manifest.spec.params.items()}
    return found


def _parent(artifact: Artifact, name: str) -> Artifact | None:
    parent = artifact.manifest.parents.get(name)
    return None if parent is None else artifact.store.get(parent.ref)
