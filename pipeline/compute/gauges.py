"""Ray metrics: the metrics of one group of the table, set or counted in this process. Imports Ray."""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from pipeline.compute.metrics import metrics_of

KINDS = {"gauge": Gauge, "counter": Counter}


class Gauges:
    """The metrics of a group with the same tags. Ray drops a gauge seconds after its process ended.

    Args:
        group: a group of the table, e.g. 'train'.
        tags: name of a tag -> value.
    """

    def __init__(self, group: str, tags: Mapping[str, str]) -> None:
        self._tags, self._metrics = dict(tags), metrics_of(group)
        self._gauges = {
            name: KINDS[metric.kind](metric.ray_name, f"{metric.text}; unit: {metric.unit}", tag_keys=metric.tags)
            for name, metric in self._metrics.items()
        }

    def set(self, values: Mapping[str, float], **more: str) -> None:
        """Set the gauges that have a value; other values are ignored. more: values of further tags."""
        for name, value in values.items():
            if name in self._metrics and self._metrics[name].kind == "gauge":
                self._gauges[name].set(float(value), self._tags_of(name, more))

    def add(self, values: Mapping[str, float]) -> None:
        """Add to the counters that have a value above 0; Ray refuses 0."""
        for name, value in values.items():
            if value > 0:
                self._gauges[name].inc(float(value), self._tags_of(name, {}))

    def _tags_of(self, name: str, more: Mapping[str, str]) -> dict[str, str]:
        known = {**self._tags, **more}
        return {tag: known[tag] for tag in self._metrics[name].tags}
