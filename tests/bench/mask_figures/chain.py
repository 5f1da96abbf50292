"""The pipeline's own way from pictures and texts to masks, without a store: phases of the teacher, evidence, gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.teachers import rle
from pipeline.masks.config import MaskGates, TeacherConfig, TeacherSetup
from pipeline.masks.evidence import segment_shard
from pipeline.masks.gates import gate
from pipeline.masks.pictures import Picture
from pipeline.masks.teachers.interface import Phase


@dataclass(frozen=True)
class Asked:
    """One query with its truth."""

    text: str
    truth: str | None
    """Counts of the exact mask; None if the text is about nothing in the picture."""
    group: str
    """The row of the table that it belongs to."""
    facts: dict[str, Any] = field(default_factory=dict)
    """More about it, for other tables."""


@dataclass(frozen=True)
class Judged:
    """A query's evidence and mask, compared with its truth."""

    asked: Asked
    evidence: dict[str, Any]
    mask: dict[str, Any]
    iou: float
    """Of the union of all instances and the truth, before the gates; 0 where there is none."""
    accepted_iou: float
    """Of the accepted mask; 0 where there is none."""


def setup(weights: Path, config: TeacherConfig | None = None) -> TeacherSetup:
    """Florence-2 and SAM of a folder with `florence2` and `sam`, on one thread of a CPU."""
    return TeacherSetup(
        weights={"florence": str(weights / "florence2"), "sam": str(weights / "sam")},
        name="florence_sam",
        config=config or TeacherConfig(max_new_tokens=96),
        device="cpu",
        threads=1,
    )


def judge(
    phases: Sequence[Phase],
    setup: TeacherSetup,
    shard: Sequence[tuple[npt.NDArray[np.uint8], Sequence[Asked]]],
    gates: MaskGates,
) -> list[Judged]:
    """Evidence and masks of pictures, uint8 (H, W, 3), as one shard, compared with their truth."""
    pictures = [
        Picture(pixels, "", [_query(index, turn, pixels, one.text) for turn, one in enumerate(asked)])
        for index, (pixels, asked) in enumerate(shard)
    ]
    table, _ = segment_shard(phases, setup, pictures)
    every = [one for _, asked in shard for one in asked]
    return [_judged(one, row, gate(row, gates)) for one, row in zip(every, table.to_pylist(), strict=True)]


def _query(picture: int, turn: int, pixels: npt.NDArray[np.uint8], text: str) -> dict[str, Any]:
    return {
        "sample_id": f"{picture:06d}",
        "turn": turn,
        "query_kind": "question",
        "char_start": 0,
        "char_end": len(text),
        "image_sha256": f"{picture:064d}",
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "query": text,
        "image": f"{picture}",
    }


def _judged(asked: Asked, evidence: dict[str, Any], mask: dict[str, Any]) -> Judged:
    height, width = evidence["height"], evidence["width"]
    found = [instance["rle"] for instance in evidence["instances"]]
    before = after = 0.0
    if asked.truth is not None and found:
        before = rle.iou(rle.union(found, height, width), asked.truth, height, width)
    if asked.truth is not None and mask["status"] == "ok":
        after = rle.iou(mask["rle"], asked.truth, height, width)
    return Judged(asked, evidence, mask, before, after)
