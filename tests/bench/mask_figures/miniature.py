"""Mask generation on the miniature world: mean IoU, recall, small objects and absent ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.miniature.quality import FOUND, WORLDS, is_small, probes, unseen
from model.miniature.world import Scene, render
from model.teachers import rle
from pipeline.masks.config import MaskGates
from pipeline.masks.teachers.table import open_phases
from tests.bench.mask_figures.chain import Asked, Judged, judge, setup

SHARD = 16  # pictures


def asked_about(scene: Scene) -> tuple[npt.NDArray[np.uint8], list[Asked]]:
    """A scene's picture, and six texts about it with their exact masks."""
    pixels, truth = render(scene)
    found = []
    for probe in probes(scene):
        wanted = np.asarray(truth[list(probe.targets)].any(axis=0)) if probe.targets else None
        small = wanted is not None and len(probe.targets) == 1 and is_small(wanted)
        counts = None if wanted is None else rle.encode(wanted)
        found.append(Asked(probe.text, counts, probe.kind, {"objects": len(truth), "small": small}))
    return pixels, found


def masks_of_world(world: str, scenes: int, weights: Path, gates: MaskGates) -> list[Judged]:
    """The pipeline's masks on unseen scenes of a world ('plain' or 'wide')."""
    teacher = setup(weights)
    phases = open_phases(teacher)
    shown = [asked_about(scene) for scene in unseen(scenes, WORLDS[world])]
    shards = [shown[start : start + SHARD] for start in range(0, len(shown), SHARD)]
    return [one for shard in shards for one in judge(phases, teacher, shard, gates)]


def figures(rows: Sequence[Judged]) -> dict[str, float]:
    """The figures of one world; shares are of texts.

    'iou' and 'recall' are before the gates, and count a text without a region as 0. 'accepted' is the share of texts
    about something that have a mask after the gates, and 'iou accepted' is the mean of those alone.
    """
    about = [row for row in rows if row.asked.truth is not None]
    absent = [row for row in rows if row.asked.truth is None]
    accepted = [row for row in about if row.mask["status"] == "ok"]
    found = {
        "iou": _iou(about),
        "recall": _recall(about),
        "accepted": len(accepted) / len(about),
        "iou accepted": float(np.mean([row.accepted_iou for row in accepted])),
    }
    groups = {"small": [row for row in about if row.asked.facts["small"]]}
    groups |= {f"{n} objects": [row for row in about if row.asked.facts["objects"] == n] for n in range(1, 5)}
    for name, chosen in groups.items():
        if chosen:
            found |= {f"iou {name}": _iou(chosen), f"recall {name}": _recall(chosen)}
    for kind in dict.fromkeys(row.asked.group for row in absent):
        chosen = [row for row in absent if row.asked.group == kind]
        found[f"{kind}: no region"] = float(np.mean([not row.evidence["instances"] for row in chosen]))
        found[f"{kind}: no mask"] = float(np.mean([row.mask["status"] != "ok" for row in chosen]))
    return found


def _iou(rows: Sequence[Judged]) -> float:
    return float(np.mean([row.iou for row in rows]))


def _recall(rows: Sequence[Judged]) -> float:
    return float(np.mean([row.iou >= FOUND for row in rows]))
