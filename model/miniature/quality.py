"""`python -m model.miniature.quality`: IoU of the shipped teachers on scenes that none of them was trained on.

The scenes are the data set's (`--world plain`), or have up to four objects, many of them small (`--world wide`).

The chain is a plain form of the pipeline's, with the stock classes only: text -> Florence-2's polygons -> the box of
each instance -> SAM's mask -> union. The result is compared with the exact masks of the objects that the text is about.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from segment_anything.modeling import Sam
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from model.miniature.florence import TASK
from model.miniature.language import caption, questions
from model.miniature.sam import load_sam
from model.miniature.training import fit_longest_side
from model.miniature.weights import weights_dir
from model.miniature.world import PLAIN, SMALL, WIDE, Scene, SceneRules, make_scene, render

UNSEEN_SEEDS: Final = 500_000_000  # neither the trainings' scenes nor those of a data set, which count from 0
WORLDS: Final[dict[str, SceneRules]] = {"plain": PLAIN, "wide": WIDE}
FOUND: Final = 0.5  # IoU from which on an object counts as found
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Probe:
    """One text about one scene, its kind, and the objects that it is about."""

    text: str
    targets: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class Result:
    """The chain's result for a probe. Both IoUs are None where the text is about nothing in the scene."""

    probe: Probe
    instances: int
    polygon_iou: float | None
    chain_iou: float | None
    seed: int
    objects: int
    """In the scene."""
    small: bool
    """True if the text is about one object alone, and that is small (`world.SMALL`)."""


def unseen(count: int, rules: SceneRules = PLAIN, objects: int | None = None) -> list[Scene]:
    """`count` scenes that no model was trained on; only those with this number of objects, if it is given."""
    if objects is not None and not 1 <= objects <= len(rules.counts):
        raise ValueError(f"objects is {objects}; these scenes have from 1 to {len(rules.counts)}")
    found: list[Scene] = []
    seed = UNSEEN_SEEDS
    while len(found) < count:
        scene = make_scene(seed, rules)
        if objects is None or len(scene.objects) == objects:
            found.append(scene)
        seed += 1
    return found


def probes(scene: Scene) -> list[Probe]:
    """Two captions, a present question, one with its answer, an absent question, one with its answer."""
    said = [caption(scene, 0), caption(scene, 1)]
    found = [Probe(u.text, u.targets, kind) for u, kind in zip(said, ("caption", "caption of one"), strict=True)]
    present = [q for q in questions(scene) if q.targets]
    absent = [q for q in questions(scene) if not q.targets]
    for asked, kind in ((present, "question"), (absent, "absent")):
        found.append(Probe(asked[0].question, asked[0].targets, kind))
        found.append(Probe(f"{asked[-1].question} {asked[-1].answer}", asked[-1].targets, f"{kind} and answer"))
    return found


def iou(one: Mask, other: Mask) -> float:
    """Intersection over union; 0 where both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0


class Chain:
    """The two tiny teachers, opened with the libraries' own loaders."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder / "florence2")
        self.florence = Florence2ForConditionalGeneration.from_pretrained(
            folder / "florence2", dtype=torch.float32
        ).eval()
        self.sam: Sam = load_sam(folder / "sam")

    @torch.no_grad()
    def polygons(self, picture: Image.Image, texts: list[str]) -> list[list[list[npt.NDArray[np.float64]]]]:
        """For each text its instances, for each instance its polygons, each (k, 2) in pixels with k >= 3."""
        inputs = self.processor(
            text=[TASK + text for text in texts],
            images=[picture] * len(texts),
            return_tensors="pt",
            padding=True,
        )
        made = self.florence.generate(**inputs, max_new_tokens=80, num_beams=1, do_sample=False)
        rows = self.processor.batch_decode(made, skip_special_tokens=False)
        answers = []
        for row in rows:
            parsed = self.processor.post_process_generation(row, task=TASK, image_size=picture.size)[TASK]
            instances = [
                [np.array(points, dtype=float).reshape(-1, 2) for points in polygons if len(points) >= 6]
                for polygons in parsed["polygons"]
            ]
            answers.append([instance for instance in instances if instance])
        return answers

    @torch.no_grad()
    def masks(self, picture: Image.Image, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """SAM's mask of each box. boxes (n, 4) in pixels of the picture; returns bool (n, H, W)."""
        width, height = fit_longest_side(*picture.size, self.sam.image_encoder.img_size)
        small = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
        scale = np.array([width / picture.width, height / picture.height] * 2)
        record = {
            "image": torch.from_numpy(small.copy()).permute(2, 0, 1).float(),
            "original_size": (picture.height, picture.width),
            "boxes": torch.from_numpy(boxes * scale).float(),
        }
        found: npt.NDArray[np.bool_] = self.sam([record], multimask_output=False)[0]["masks"][:, 0].numpy()
        return found


def _filled(points: npt.NDArray[np.float64], width: int, height: int) -> Mask:
    """A polygon's mask by the even-odd rule at pixel centres."""
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    inside = np.zeros((height, width), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 <= ys) != (y1 <= ys)
            inside ^= crosses & (xs < x0 + (ys - y0) * (x1 - x0) / (y1 - y0))
    return inside


def is_small(mask: Mask) -> bool:
    """True if a mask has less than a share of SMALL of its picture."""
    return bool(mask.mean() < SMALL)


def measure(chain: Chain, scenes: Sequence[Scene]) -> Iterator[Result]:
    """The chain on every probe of each scene."""
    for scene in scenes:
        pixels, truth = render(scene)
        picture = Image.fromarray(pixels)
        asked = probes(scene)
        for probe, instances in zip(asked, chain.polygons(picture, [p.text for p in asked]), strict=True):
            if not probe.targets:
                yield Result(probe, len(instances), None, None, scene.seed, len(truth), False)
                continue
            wanted: Mask = np.asarray(truth[list(probe.targets)].any(axis=0))
            drawn, masked = np.zeros_like(wanted), np.zeros_like(wanted)
            if instances:
                boxes = []
                for polygons in instances:
                    points = np.concatenate(polygons)
                    boxes.append(np.concatenate([points.min(axis=0), points.max(axis=0)]))
                    for polygon in polygons:
                        drawn |= _filled(polygon, scene.width, scene.height)
                masked = np.asarray(chain.masks(picture, np.array(boxes)).any(axis=0))
            small = len(probe.targets) == 1 and is_small(wanted)
            figures = iou(drawn, wanted), iou(masked, wanted)
            yield Result(probe, len(instances), *figures, scene.seed, len(truth), small)


def sam_ious(chain: Chain, scenes: Sequence[Scene]) -> tuple[list[float], list[float]]:
    """IoUs of SAM's masks for the exact boxes: of all objects, and of the small ones among them."""
    found, small = [], []
    for scene in scenes:
        pixels, truth = render(scene)
        ys_xs = [np.nonzero(mask) for mask in truth]
        boxes = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] for ys, xs in ys_xs], dtype=float)
        made = chain.masks(Image.fromarray(pixels), boxes)
        found += [iou(one, other) for one, other in zip(made, truth, strict=True)]
        small += [iou(one, other) for one, other in zip(made, truth, strict=True) if is_small(other)]
    return found, small


def summary(results: list[Result]) -> dict[str, float]:
    """Mean IoUs of the texts about something, also by kind; for the others the share that got no polygon.

    'recall' is the share of texts about something with an IoU of FOUND or more.
    """
    about = [r for r in results if r.chain_iou is not None]
    figures = {
        "chain_iou": float(np.mean([r.chain_iou for r in about if r.chain_iou is not None])),
        "polygon_iou": float(np.mean([r.polygon_iou for r in about if r.polygon_iou is not None])),
        "right_count": float(np.mean([r.instances == len(r.probe.targets) for r in about])),
    }
    for kind in dict.fromkeys(r.probe.kind for r in results):
        rows = [r for r in results if r.probe.kind == kind]
        if rows[0].chain_iou is None:
            figures[f"silent on {kind}"] = float(np.mean([r.instances == 0 for r in rows]))
        else:
            figures[f"chain_iou of {kind}"] = float(np.mean([r.chain_iou for r in rows if r.chain_iou is not None]))
    figures["recall"] = _recall(about)
    groups = {f"with {n} objects": [r for r in about if r.objects == n] for n in sorted({r.objects for r in about})}
    for name, rows in {"of small objects": [r for r in about if r.small], **groups}.items():
        if rows:
            figures[f"chain_iou {name}"] = float(np.mean([r.chain_iou for r in rows if r.chain_iou is not None]))
            figures[f"recall {name}"] = _recall(rows)
    return figures


def _recall(about: list[Result]) -> float:
    return float(np.mean([(r.chain_iou or 0.0) >= FOUND for r in about]))


def main(arguments: list[str] | None = None) -> int:
    """The command line: prints one figure a line."""
    parser = argparse.ArgumentParser(prog="python -m model.miniature.quality", description="Quality on unseen scenes.")
    parser.add_argument("--weights", type=Path, default=weights_dir(), help="folder of the weights (default: shipped)")
    parser.add_argument("--scenes", type=int, default=100, help="how many unseen scenes (default: 100)")
    parser.add_argument("--world", choices=list(WORLDS), default="plain", help="kind of scenes (default: plain)")
    parser.add_argument("--objects", type=int, choices=range(1, 5), help="only scenes with this number of objects")
    given = parser.parse_args(arguments)
    chain = Chain(given.weights)
    rules = WORLDS[given.world]
    if given.objects is not None and given.objects > len(rules.counts):
        parser.error(f"--objects is {given.objects}; scenes of --world {given.world} have {len(rules.counts)} at most")
    scenes = unseen(given.scenes, rules, given.objects)
    every, small = sam_ious(chain, scenes)
    print(f"sam_iou  {np.mean(every):.3f}")
    if small:
        print(f"sam_iou of small objects  {np.mean(small):.3f}")
    for name, value in summary(list(measure(chain, scenes))).items():
        print(f"{name}  {value:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
