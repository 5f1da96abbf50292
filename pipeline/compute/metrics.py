"""The table of our own metrics: names, units and tags. Ray's dashboard and Prometheus read them. Imports no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.artifacts.spec import short

TAGS = ("recipe", "step", "artifact")
"""Tags of every metric: the recipe's name, the step's key in the plan, and the first digits of the artifact's id."""


@dataclass(frozen=True)
class Metric:
    """One metric. Ray adds tags of its own, for example the node and the worker."""

    group: str
    name: str
    unit: str
    text: str
    kind: Literal["gauge", "counter"] = "gauge"
    tags: tuple[str, ...] = TAGS

    @property
    def ray_name(self) -> str:
        """Its name as it is given to Ray."""
        return f"agevlm_{self.group}_{self.name}"

    @property
    def series(self) -> str:
        """Its name in Prometheus."""
        return f"ray_{self.ray_name}" + ("_total" if self.kind == "counter" else "")


def _step(name: str, unit: str, text: str, *more: str) -> Metric:
    return Metric("step", name, unit, text, tags=(*TAGS, *more))


METRICS: tuple[Metric, ...] = (
    # every step
    _step("done", "units", "units done; the tag unit says which: record, query, sample, ...", "unit"),
    _step("total", "units", "units of the whole step", "unit"),
    _step("per_second", "units/s", "recent speed", "unit"),
    _step("seconds_left", "s", "estimated time until the step is done"),
    _step("start_seconds", "s", "wait between the submission of the job and the first line of the step's code"),
    _step("rejected", "units", "rejected units, all reasons together"),
    _step("rejects", "units", "rejected units of one reason", "reason"),
    # segment
    Metric("segment", "rows_per_second", "queries/s", "recent speed"),
    Metric("segment", "images_done", "images", "images whose shard is committed"),
    Metric("segment", "shards_done", "shards", "shards committed"),
    Metric("segment", "model_share", "0..1", "share of the actors' time inside the teacher's models, since the start"),
    Metric("segment", "actor_seconds", "s", "time of the actors, with all waiting", kind="counter"),
    Metric("segment", "model_seconds", "s", "time of the actors inside the teacher's models", kind="counter"),
    Metric("segment", "queue_seconds", "s", "time that the actors waited for decoded pictures", kind="counter"),
    # stage1-4: values of the latest row of metrics, over all workers
    Metric("train", "step", "steps", "optimiser steps done"),
    Metric("train", "lm_loss", "nats/token", "LM loss per target token"),
    Metric("train", "guidance_loss", "nats", "guidance loss (eq. 3), mean over guided rows"),
    Metric("train", "attention_in_mask", "0..1", "attention inside the mask, mean over cross-attention layers"),
    Metric("train", "even_in_mask", "0..1", "the same, if attention were even over the image"),
    Metric("train", "attention_on_padding", "0..1", "attention on cells without any pixel of the image"),
    Metric("train", "guided_rows", "rows", "guided rows since the row of metrics before"),
    Metric("train", "held_out_loss", "nats/token", "LM loss of the held-out rows"),
    Metric("train", "gradient_norm", "1", "norm of the gradient before clipping"),
    Metric("train", "learning_rate", "1", "learning rate"),
    Metric("train", "tokens_per_second", "tokens/s", "speed, all workers"),
    Metric("train", "images_per_second", "images/s", "speed, all workers"),
    Metric("train", "padding", "0..1", "share of the tokens that only fill rows up"),
    Metric("train", "data_wait", "0..1", "share of the time that workers wait for data"),
    Metric("train", "checkpoint_seconds", "s", "time that training waited for checkpoints since the row before"),
    Metric("train", "mfu", "0..1", "share of the GPUs' peak bf16 operations; none on a CPU"),
    Metric("train", "memory_bytes", "bytes", "most memory allocated on one GPU; none on a CPU"),
)


def metrics_of(group: str) -> Mapping[str, Metric]:
    """Name -> metric of one group."""
    return {metric.name: metric for metric in METRICS if metric.group == group}


def tags_of(recipe: str | None, key: str, artifact: str) -> dict[str, str]:
    """The values of TAGS for the step `key` that makes an artifact."""
    return {"recipe": recipe or "", "step": key, "artifact": short(artifact)}
