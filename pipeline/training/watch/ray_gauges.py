"""Ray metrics of a stage: Ray's dashboard and Prometheus read them as `ray_agevlm_train_*`."""

from collections.abc import Mapping

from pipeline.compute.gauges import Gauges
from pipeline.compute.metrics import metrics_of

NAMES = frozenset(metrics_of("train"))


class RayGauges:
    """Sets Ray's gauges as a `Tracker`. tags: of all of them."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._gauges = Gauges("train", tags)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Set each gauge that has a value. Values per layer ('name/layer') count as their mean."""
        found = {**values, "step": float(step)}
        for name in NAMES - found.keys():
            layers = [value for key, value in values.items() if key.startswith(f"{name}/")]
            if layers:
                found[name] = sum(layers) / len(layers)
        self._gauges.set(found)

    def close(self) -> None:
        """Do nothing: Ray drops a worker's gauges when the worker ends."""
