"""Ray metrics: gauges that Ray's dashboard and Prometheus read, as `ray_agevlm_<group>_<name>`. Imports Ray."""

from collections.abc import Mapping

from ray.util.metrics import Gauge


class Gauges:
    """A group of gauges with the same tags. Ray drops them when their process ends.

    Args:
        group: first part of their names, e.g. 'train'.
        descriptions: name -> description, with its unit.
        tags: name of a tag -> value.
    """

    def __init__(self, group: str, descriptions: Mapping[str, str], tags: Mapping[str, str]) -> None:
        self._tags, keys = dict(tags), tuple(tags)
        self._gauges = {
            name: Gauge(f"agevlm_{group}_{name}", text, tag_keys=keys) for name, text in descriptions.items()
        }

    def set(self, values: Mapping[str, float]) -> None:
        """Set the gauges that have a value; other values are ignored."""
        for name, gauge in self._gauges.items():
            if name in values:
                gauge.set(float(values[name]), self._tags)
