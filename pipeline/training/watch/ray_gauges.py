"""Ray metrics of a stage: Ray's dashboard and Prometheus read them as `ray_agevlm_train_*`."""

from collections.abc import Mapping

from pipeline.compute.gauges import Gauges

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
        self._gauges = Gauges("train", GAUGES, {"stage": row, "step_key": key})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Set each gauge that has a value. Values per layer ('name/layer') count as their mean."""
        found = {**values, "step": float(step)}
        for name in GAUGES.keys() - found.keys():
            layers = [value for key, value in values.items() if key.startswith(f"{name}/")]
            if layers:
                found[name] = sum(layers) / len(layers)
        self._gauges.set(found)

    def close(self) -> None:
        """Do nothing: Ray drops a worker's gauges when the worker ends."""
