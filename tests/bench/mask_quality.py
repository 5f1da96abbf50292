"""Masks compared with the truth: the miniature world through the pipeline's teachers, and COCO's annotations.

Run: `python -m tests.bench mask_quality [--scenes N] [--coco FOLDER]`. FOLDER has COCO's layout (`annotations/`,
`images/`); AGEVLM_COCO names it too. Without one the photographs are skipped. There an oracle takes Florence-2's place,
and SAM is the miniature one, which knows no photographs: its IoU there says nothing about a published SAM.

Prints lines `metric value`. Returns 1 if a figure is outside its bounds. What the figures mean: docs/mask-quality.md.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from model.agevlm.letterbox import RULES
from model.miniature.quality import WORLDS
from model.miniature.weights import weights_dir
from pipeline.masks.config import MaskGates
from tests.bench.mask_figures.cells import below_area, ceilings, cell_iou, differences, losses, padding_share
from tests.bench.mask_figures.chain import Judged
from tests.bench.mask_figures.coco import Photo, masks_of_photos, read_photos
from tests.bench.mask_figures.miniature import figures, masks_of_world

LEAST: Final = {"plain iou": 0.89, "wide iou": 0.85, "plain absent: no mask": 0.95, "wide absent: no mask": 0.95}
MOST: Final = {"coco masks that differ": 0, "coco cells that differ": 0, "coco instances lost by any": 0}
PROMPTS: Final = ("box", "box_and_mask", "points")


def of_miniature(scenes: int, weights: Path) -> dict[str, float]:
    """The figures of both worlds."""
    found: dict[str, float] = {}
    for world in WORLDS:
        rows = masks_of_world(world, scenes, weights, MaskGates())
        found |= {f"{world} {name}": value for name, value in figures(rows).items()}
    return found


def of_exactness(photos: Sequence[Photo]) -> dict[str, float]:
    """The figures that need no teacher: exactness of the way to cells, and each rule's losses."""
    pixels, cells, total = differences(photos)
    found: dict[str, float] = {
        "coco photographs": len(photos),
        "coco instances": total,
        "coco masks that differ": pixels,
        "coco cells that differ": cells,
        "coco padding share": padding_share(photos),
    }
    found |= {f"coco {size} iou in bins": value for size, value in ceilings(photos).items()}
    found["coco instances below min_area"] = below_area(photos, MaskGates().min_area)
    for group, rules in losses(photos).items():
        found[f"coco {group}"] = rules[RULES[0]][1]
        found |= {f"coco {group} lost by {rule}": lost for rule, (lost, _) in rules.items()}
    return found


def of_oracle(name: str, rows: Sequence[Judged]) -> dict[str, float]:
    """The figures of one way from oracle regions to masks. A row is a category of a photograph."""
    kept = [row for row in rows if row.mask["status"] == "ok"]
    found: dict[str, float] = {
        f"{name} categories": len(rows),
        f"{name} iou": float(np.mean([row.iou for row in rows])),
        f"{name} accepted": len(kept) / len(rows),
        f"{name} iou accepted": float(np.mean([row.accepted_iou for row in kept])) if kept else 0.0,
    }
    reasons = Counter(str(row.mask["reason"] or row.mask["status"]) for row in rows if row.mask["status"] != "ok")
    found |= {f"{name} dropped by {reason}": count for reason, count in sorted(reasons.items())}
    if kept:
        found[f"{name} cell iou accepted"] = float(np.mean([_cell_iou(row) for row in kept]))
    return found


def _cell_iou(row: Judged) -> float:
    assert row.asked.truth is not None, "oracle queries are about something"
    return cell_iou(row.mask["rle"], row.asked.truth, (row.evidence["height"], row.evidence["width"]), "any")


def of_photos(folder: Path, weights: Path) -> dict[str, float]:
    """The figures of COCO's annotations; those of SAM only for photographs that are there."""
    photos = read_photos(folder)
    found = of_exactness(photos)
    shown = [photo for photo in photos if photo.file is not None]
    if shown:
        found |= of_oracle("coco exact masks", masks_of_photos(shown, None, "box", MaskGates()))
        for prompt in PROMPTS:
            found |= of_oracle(f"coco sam {prompt}", masks_of_photos(shown, weights, prompt, MaskGates()))
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench mask_quality", description=(__doc__ or "")[:110])
    parser.add_argument("--scenes", type=int, default=60, help="unseen scenes of each world (default: 60)")
    parser.add_argument("--weights", type=Path, default=weights_dir(), help="folder of the weights (default: shipped)")
    parser.add_argument("--coco", type=Path, default=os.environ.get("AGEVLM_COCO"), help="folder in COCO's layout")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = of_miniature(given.scenes, given.weights) if given.scenes else {}
    if given.coco is not None:
        found |= of_photos(given.coco, given.weights)
    for name, value in found.items():
        print(f"mask_quality.{name.replace(' ', '_').replace(':', '')} {value:.4g}")
    if given.coco is None:
        print("mask_quality: no COCO folder was given (--coco or AGEVLM_COCO); photographs are skipped")
    low = [name for name, least in LEAST.items() if name in found and found[name] < least]
    high = [name for name, most in MOST.items() if name in found and found[name] > most]
    for name in [*low, *high]:
        print(f"mask_quality: {name} is {found[name]:.4g}; its bound is {LEAST.get(name, MOST.get(name))}")
    return 1 if low or high else 0
