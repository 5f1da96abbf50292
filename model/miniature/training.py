"""Shared parts of the tiny models' training: rendered batches, the learning-rate schedule and the progress line."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from model.miniature.world import PLAIN, TRAINING_SEEDS, Scene, SceneRules, make_scene, render

PIXEL_SIZE: Final = 128  # side of the square that every tiny model looks at
MOST_OBJECTS: Final = 4  # of a training scene
IMAGE_MEAN: Final = (0.5, 0.5, 0.5)
IMAGE_STD: Final = (0.5, 0.5, 0.5)


def fit_longest_side(width: int, height: int, size: int = PIXEL_SIZE) -> tuple[int, int]:
    """(width, height) after scaling the longer side to `size`, rounded as segment-anything does."""
    scale = size / max(width, height)
    return int(width * scale + 0.5), int(height * scale + 0.5)


def _through_jpeg(picture: npt.NDArray[np.uint8], quality: int) -> Image.Image:
    """The picture after JPEG compression, as in a data set of JPEG files."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


@dataclass(frozen=True)
class SceneBank:
    """Training scenes, rendered once.

    images: uint8 (N, S, S, 3). labels: uint8 (N, S, S); 0 is background, k + 1 the k-th object of the scene.
    frames: int (N, 4), the rectangle (left, top, right, bottom) of each square that holds picture.
    """

    scenes: list[Scene]
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    frames: npt.NDArray[np.int64]

    def pixels(self, chosen: npt.NDArray[np.int64]) -> torch.Tensor:
        """Normalised pixels of the chosen scenes, float (B, 3, S, S)."""
        x = torch.from_numpy(self.images[chosen]).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
        return (x - mean) / std


def build_bank(
    count: int,
    seed: int,
    geometry: str,
    size: int = PIXEL_SIZE,
    rules: Sequence[SceneRules] = (PLAIN,),
    skip: int = 0,
) -> SceneBank:
    """Render `count` training scenes; the same arguments give the same bank.

    The scenes follow `rules` in turn. `skip` leaves out that many of the seed's scenes, which another phase uses.

    geometry: 'squash' (both sides to `size`, as Florence-2 does), 'corner' (longest side, padded right and
    below, as SAM does) or 'centre' (longest side, padded on both sides, the student's letterbox). Padding
    is 0 for 'corner' and the mean colour for 'centre'. Raises ValueError for another geometry.
    """
    if geometry not in ("squash", "corner", "centre"):
        raise ValueError(f"geometry must be squash, corner or centre, got {geometry!r}")
    first = TRAINING_SEEDS + 10_000_000 * seed + skip
    scenes = [make_scene(first + i, rules[i % len(rules)]) for i in range(count)]
    fill = round(255 * IMAGE_MEAN[0]) if geometry == "centre" else 0
    images = np.full((count, size, size, 3), fill, dtype=np.uint8)
    labels = np.zeros((count, size, size), dtype=np.uint8)
    frames = np.zeros((count, 4), dtype=np.int64)
    for i, scene in enumerate(scenes):
        picture, masks = render(scene)
        label = np.zeros(picture.shape[:2], dtype=np.uint8)
        for k, mask in enumerate(masks):
            label[mask] = k + 1
        quality = int(np.random.default_rng([scene.seed, 5]).integers(80, 97))
        w, h = (size, size) if geometry == "squash" else fit_longest_side(scene.width, scene.height, size)
        left, top = ((size - w) // 2, (size - h) // 2) if geometry == "centre" else (0, 0)
        frames[i] = left, top, left + w, top + h
        window = np.s_[top : top + h, left : left + w]
        images[i][window] = np.asarray(_through_jpeg(picture, quality).resize((w, h), Image.Resampling.BICUBIC))
        labels[i][window] = np.asarray(Image.fromarray(label).resize((w, h), Image.Resampling.NEAREST))
    return SceneBank(scenes, images, labels, frames)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, flat to half of the run, then linear to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * max(0.02, min(1.0, 2 * (steps - step) / steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every parameter group's rate to `rate` times its `scale` (1 where it has none)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter]) -> None:
    """One optimiser step on `loss`, with gradients clipped to norm 1."""
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()


class Progress:
    """Prints one line every `every` steps: step, mean of each figure since the last line, and the time left."""

    def __init__(self, name: str, steps: int, every: int = 50) -> None:
        self.name, self.steps, self.every = name, steps, every
        self._start = time.monotonic()
        self._sums: dict[str, list[float]] = {}

    def update(self, step: int, **figures: float) -> None:
        """Record the figures of the step with this number (from 0)."""
        for key, value in figures.items():
            self._sums.setdefault(key, []).append(value)
        done = step + 1
        if done % self.every and done != self.steps:
            return
        taken = time.monotonic() - self._start
        means = "  ".join(f"{key} {sum(values) / len(values):.4f}" for key, values in self._sums.items())
        left = taken / done * (self.steps - done)
        print(f"{self.name}  step {done}/{self.steps}  {means}  {taken:.0f} s, {left:.0f} s left", flush=True)
        self._sums.clear()


def cell_labels(
    bank: SceneBank, chosen: npt.NDArray[np.int64], cells: int, least: float = 0.25
) -> tuple[torch.Tensor, torch.Tensor]:
    """The object of each cell of a cells x cells grid.

    Returns owner, long (B, cells, cells): 0 for background, k + 1 for object k (the one with the largest
    share of the cell, if that share is at least `least`); and the shares, float (B, MOST_OBJECTS, cells, cells),
    of each object.
    """
    label = torch.from_numpy(bank.labels[chosen])
    shares = torch.stack([(label == k + 1).float() for k in range(MOST_OBJECTS)], dim=1)
    shares = torch.nn.functional.adaptive_avg_pool2d(shares, cells)
    best, owner = shares.max(dim=1)
    return torch.where(best >= least, owner + 1, torch.zeros_like(owner)), shares
