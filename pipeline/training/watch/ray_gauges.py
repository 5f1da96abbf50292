"""Ray metrics of a stage: Ray's dashboard and Prometheus read them as `ray_agevlm_train_*`."""

from collections.abc import Mapping

from ray.util.metrics import Gauge

PREFIX, TAGS = "agevlm_train_", ("stage", "step_key")
GAUGES = {
    "step": "optimiser steps done",
    "lm_loss": "LM loss per target token",
    "guidance_loss": "guidance loss (eq. 3)",
    "attention_in_mask": "attention inside the mask, mean over cross-attention layers, 0..1",
    "tokens_per_second": "tokens per second, all workers",
    "data_wait": "share of the time that workers wait for data, 0..1",
    "mfu": "share of the GPUs' peak bf16 operations, 0..1",
}
"""Name -> description, with its unit."""


class RayGauges:
    """Sets Ray's gauges as a `Tracker`; they are tagged by the row of the stage table and the step's key."""

    def __init__(self, row: str, key: str) -> None:
        self._tags = dict(zip(TAGS, (row, key), strict=True))
        self._gauges = {name: Gauge(PREFIX + name, text, tag_keys=TAGS) for name, text in GAUGES.items()}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Set each gauge that has a value. Values per layer ('name/layer') count as their mean."""
        for name, gauge in self._gauges.items():
            layers = [value for key, value in values.items() if key.startswith(f"{name}/")]
            value = float(step) if name == "step" else values.get(name)
            if value is None and layers:
                value = sum(layers) / len(layers)
            if value is not None:
                gauge.set(value, self._tags)

    def close(self) -> None:
        """Do nothing: Ray drops a worker's gauges when the worker ends."""
