"""Made-up candidates: masks of a random quality, and teachers' figures that follow it with noise. No rows, no masks."""

import numpy as np

from pipeline.masks.candidates import MOST, Candidates


def noisy_candidates(count: int, seed: int, absent: float = 0.15) -> Candidates:
    """Queries with 1 to 3 instances; a mask of an absent object has a lower figure and the IoU 0."""
    rng = np.random.default_rng(seed)
    quality = np.sqrt(rng.random((count, MOST)))
    missing = rng.random(count) < absent
    there = np.arange(MOST) < rng.choice([1, 1, 1, 2, 3], count)[:, None]

    def figure(noise: float) -> np.ndarray:
        seen = quality - 0.4 * missing[:, None] * quality + rng.normal(0, noise, quality.shape)
        return np.where(there, seen.clip(0, 1), -1.0)

    figures = {"min_sam_iou": figure(0.1), "min_agreement_iou": figure(0.2), "min_stability": figure(0.15)}
    part = rng.random((count, MOST)) * 0.1 + 0.0001
    iou, area = np.zeros((count, 2**MOST)), np.zeros((count, 2**MOST))
    for subset in range(1, 2**MOST):
        bits = (subset >> np.arange(MOST)) & 1
        area[:, subset] = part @ bits
        iou[:, subset] = (part * quality) @ bits / area[:, subset]
    iou[missing] = 0
    score = (quality[:, 0] + rng.normal(0, 0.3, count)).clip(0, 1)
    return Candidates(score, rng.random(count) > 0.03, figures, area, iou, rng.random(count) < 0.5)
