"""Evidence of noisy made-up teachers on rendered scenes, and the masks that the real step makes of it."""

from typing import Any

import numpy as np

from model.miniature.world import make_scene, render
from model.teachers import rle
from pipeline.artifacts.store import Artifact
from pipeline.masks.config import MaskGates
from pipeline.steps.runner import run_job
from tests.pipeline.masks.fixtures_dataset import Dataset
from tests.pipeline.steps.test_masks import publish_segments

FIGURES = ("sam_iou", "agreement_iou", "stability")


def noisy_rows(dataset: Dataset, seed: int) -> dict[int, dict[str, Any]]:
    """Per query with an object, and half of the others, a mask that is moved; its figures follow its quality."""
    rng, change = np.random.default_rng(seed), dict[int, dict[str, Any]]()
    for position, query in enumerate(dataset.queries.to_pylist()):
        masks = render(make_scene(int(query["sample_id"].split("-")[1])))[1]
        absent = query["turn"] >= len(masks)
        if absent and rng.random() < 0.5:
            continue
        shift = int(rng.integers(0, 8))
        mask = np.roll(masks[0 if absent else query["turn"]], (shift, -shift), axis=(0, 1))
        figures = {name: float(np.clip(1 - shift / 8 + rng.normal(0, 0.1), 0, 1)) for name in FIGURES}
        instance = {"polygons": [], "box": [0.0, 0.0, 1.0, 1.0], "rle": rle.encode(mask), "area": int(mask.sum())}
        instance |= {"area_fraction": float(mask.mean()), "phrase": "", **figures}
        change[position] = {"status": "ok", "instances": [instance], "ended": bool(rng.random() > 0.05)}
    return change


def make_masks(
    dataset: Dataset,
    seed: int,
    gates: MaskGates,
    job: str | None = None,
    change: dict[int, dict[str, Any]] | None = None,
) -> Artifact:
    """Masks of noisy evidence. job: the name under which the store keeps the file of the job that made them."""
    rows = noisy_rows(dataset, seed) if change is None else change
    segments = publish_segments(dataset, rows, params={"teacher": {"prompt": f"Find {{query}}, try {seed}"}})
    spec = dataset.masks_job(segments, gates)
    if job is not None:
        spec = spec.model_copy(update={"submission_id": job})
        dataset.store.write_json(f"jobs/{job}.json", spec.model_dump(mode="json"))
    return run_job(spec)
