"""The work in a batch: counts for metrics, and the share of a GPU's peak that it makes (MFU)."""

from collections.abc import Mapping
from contextlib import suppress

import torch

from model.agevlm.configuration_agevlm import AgeVlmConfig
from model.stage_table import StageRow
from pipeline.training.data.batches import Batch
from pipeline.training.flops import Sizes, Work, flops_per_step, mfu

COUNTS = (
    "rows",
    "images",
    "tokens",
    "target_tokens",
    "guided_rows",
    "padding_tokens",
    "query_tokens",
    "attended",
    "image_tokens",
    "even_mass",
)
"""The names of the counts. `attended`: sum of the squares of the rows' lengths; `image_tokens`: tokens of the rows with
an image; `query_tokens`: those of the guided rows; `padding_tokens`: what fills rows up to the batch's longest one;
`even_mass`: sum over guided rows of the mask's share of the cells, which is what even attention would put in it."""


def count(part: Batch) -> dict[str, float]:
    """The counts of a micro-batch, by the names in COUNTS. Its tensors must be on the CPU."""
    lengths = part.attention_mask.sum(1)
    even = 0.0
    if part.guidance_mask is not None and part.guided is not None and part.cell_mask is not None:
        inside, cells = part.guidance_mask[part.guided].sum(1), part.cell_mask[part.guided].sum(1)
        even = float((inside / cells).sum())
    return {
        "rows": len(lengths),
        "images": part.images,
        "tokens": part.tokens,
        "target_tokens": part.target_tokens,
        "guided_rows": part.guided_rows,
        "padding_tokens": part.attention_mask.numel() - part.tokens,
        "query_tokens": 0 if part.query_mask is None else int(part.query_mask.sum()),
        "attended": int(lengths.square().sum()),
        "image_tokens": 0 if part.has_image is None else int(lengths[part.has_image].sum()),
        "even_mass": even,
    }


class Utilisation:
    """MFU of a stage: operations that its data needs over those that its GPUs could do in the time."""

    def __init__(self, config: AgeVlmConfig, row: StageRow, device: torch.device, workers: int) -> None:
        self._row, self._workers = row, workers
        self._device = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self._sizes: Sizes | None = None
        if self._device:
            with suppress(ValueError):  # an encoder whose operations are not known trains without MFU
                self._sizes = Sizes.of(config)

    def __call__(self, counts: Mapping[str, float], seconds: float) -> float | None:
        """MFU, 0..1; None on a CPU, and on a GPU whose peak is not known. Recomputed activations do not count.

        counts: sums over all workers, by the names in COUNTS.
        """
        if self._sizes is None:
            return None
        work = Work(
            rows=int(counts["rows"]),
            images=int(counts["images"]),
            tokens=int(counts["tokens"]),
            target_tokens=int(counts["target_tokens"]),
            query_tokens=int(counts["query_tokens"]),
            attended=int(counts["attended"]),
            image_tokens=int(counts["image_tokens"]),
        )
        return mfu(flops_per_step(self._sizes, self._row, work).model, seconds, self._device, self._workers)
