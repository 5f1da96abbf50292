"""The raw evidence about some samples: accepted rows of MASKS, and the ground truth where the data set has it."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as ds

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.errors import DataError
from model.teachers import rle
from pipeline.artifacts.store import Artifact

COLUMNS = ("sample_id", "turn", "query_kind", "char_start", "char_end", "image_sha256", "height", "width", "query")
Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fact:
    """One accepted mask of a sample, as the teachers left it: the full, upright frame."""

    sample_id: str
    turn: int
    query_kind: str
    char_start: int
    char_end: int
    image_sha256: str
    height: int
    width: int
    query: str
    rle: str
    area: int
    truth: str | None = None
    """The true mask's counts in the same frame; None if it is not known or the object is not in the image."""

    @property
    def mask(self) -> Masks:
        """(height, width)."""
        return rle.decode(self.rle, self.height, self.width)

    @property
    def true_mask(self) -> Masks | None:
        """(height, width)."""
        return None if self.truth is None else rle.decode(self.truth, self.height, self.width)

    @property
    def order(self) -> tuple[int, str, int, int]:
        """The order in which a sample's masks are tried; the first one that can be used guides the row."""
        return self.turn, self.query_kind, self.char_start, self.char_end


def find_facts(masks: Path, ids: Collection[str], truth: Path | None = None) -> dict[str, list[Fact]]:
    """Sample id -> its accepted masks in order, read from folders of MASKS and TRUTH parts. Raises DataError."""
    known = {(row["sample_id"], row["turn"]): row for row in _rows(truth, ids)} if truth is not None else {}
    found: dict[str, list[Fact]] = defaultdict(list)
    for row in _rows(masks, ids):
        if row["status"] == "ok":
            true = known.get((row["sample_id"], row["turn"]))
            same = true is not None and true["present"] and all(true[side] == row[side] for side in ("height", "width"))
            found[row["sample_id"]].append(
                Fact(
                    **{name: row[name] for name in COLUMNS},
                    rle=row["rle"],
                    area=row["area"],
                    truth=true["rle"] if true is not None and same else None,
                )
            )
    return {name: sorted(facts, key=lambda fact: fact.order) for name, facts in found.items()}


def truth_folder(masks: Artifact, cache: Path | None) -> Path | None:
    """The folder of the inventory's TRUTH parts; None if the masks' data set has no ground truth."""
    artifact = masks
    for name in ("segments", "inventory"):
        parent = artifact.manifest.parents.get(name)
        found = None if parent is None else masks.store.get(parent.ref)
        if found is None:
            return None
        artifact = found
    return artifact.local(cache, "truth/") / "truth" if artifact.matching("truth/", ".parquet") else None


def _rows(folder: Path, ids: Collection[str]) -> list[dict[str, Any]]:
    files = sorted(str(file) for file in folder.glob("part-*.parquet"))
    if not files:
        raise DataError(f"{folder} holds no part-*.parquet; run the step that makes it again")
    rows: list[dict[str, Any]] = (
        ds.dataset(files, format="parquet").to_table(filter=ds.field("sample_id").isin(sorted(ids))).to_pylist()
    )
    return rows
