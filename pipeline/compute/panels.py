"""The table of panels: what to look at while a run goes on. Grafana's dashboard and all links are made from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True)
class Panel:
    """One chart of Prometheus."""

    title: str
    query: str
    """PromQL. It gives data in every run that makes masks and trains a guided stage."""
    unit: str
    """Grafana's name of the unit."""
    legend: str
    """Grafana's template of a line's name; it may use the tags that the query keeps."""
    text: str


_BY_STEP = "by (recipe, step, artifact)"


def _share(part: str, whole: str) -> str:
    """Share of one counter in another over the last minute; where neither grew in it, since the start of the step.

    A rate needs two readings that differ, and a counter has no reading before its first value: a step of a few seconds,
    or the first shard of a long one, has no rate.
    """
    recent = f"sum {_BY_STEP} (rate({part}[1m])) / (sum {_BY_STEP} (rate({whole}[1m])) > 0)"
    return f"{recent} or sum {_BY_STEP} ({part}) / sum {_BY_STEP} ({whole})"


_STEPS: tuple[Panel, ...] = (
    Panel(
        "Progress of each step",
        f"max {_BY_STEP} (ray_agevlm_step_done) / max {_BY_STEP} (ray_agevlm_step_total)",
        "percentunit",
        "{{step}} {{artifact}}",
        "Share of each step that is done. A line that stays level is a step that waits or hangs.",
    ),
    Panel(
        "Speed of each step",
        "max by (recipe, step, artifact, unit) (ray_agevlm_step_per_second)",
        "none",
        "{{step}}, {{unit}}/s",
        "Units per second, recently: records, queries or samples, as the step counts.",
    ),
    Panel(
        "Time left",
        f"max {_BY_STEP} (ray_agevlm_step_seconds_left)",
        "s",
        "{{step}} {{artifact}}",
        "Estimated from the recent speed.",
    ),
    Panel(
        "Wait for a start",
        f"max {_BY_STEP} (ray_agevlm_step_start_seconds)",
        "s",
        "{{step}} {{artifact}}",
        "From the submission of a step's job to the first line of its code: Ray's queue, the process, the imports.",
    ),
    Panel(
        "Rejects by reason",
        "max by (recipe, step, artifact, reason) (ray_agevlm_step_rejects) "
        f"or max {_BY_STEP} (ray_agevlm_step_rejected)",
        "none",
        "{{step}} {{reason}}",
        "Rejected units of each reason; the line without a reason is the sum. Above max_reject_share the step fails.",
    ),
    Panel(
        "CPU of each node",
        "avg by (instance) (ray_node_cpu_utilization)",
        "percent",
        "{{instance}}",
        "Of all its cores.",
    ),
    Panel(
        "Memory of each node",
        "max by (instance) (ray_node_mem_used) / max by (instance) (ray_node_mem_total)",
        "percentunit",
        "{{instance}}",
        "Above 95 % Ray kills workers.",
    ),
    Panel(
        "Object store of each node",
        "sum by (instance) (ray_object_store_used_memory) / sum by (instance) (ray_object_store_used_memory "
        "+ ignoring (Name) ray_object_store_available_memory)",
        "percentunit",
        "{{instance}}",
        "Full: Ray writes objects to disk, and decoding waits.",
    ),
    Panel(
        "Disk of each node",
        "max by (instance) (ray_node_disk_usage) / (max by (instance) (ray_node_disk_usage) "
        "+ max by (instance) (ray_node_disk_free))",
        "percentunit",
        "{{instance}}",
        "Of the file system with Ray's folder.",
    ),
    Panel(
        "CPUs that Ray has given out",
        'sum by (State) (ray_resources{Name="CPU"})',
        "none",
        "{{State}}",
        "Ray's CPUs are logical. None AVAILABLE: a ready step waits until another one ends.",
    ),
)
_WORK: tuple[Panel, ...] = (
    Panel(
        "Masks: share of time in the models",
        _share("ray_agevlm_segment_model_seconds_total", "ray_agevlm_segment_actor_seconds_total"),
        "percentunit",
        "{{step}}",
        "Share of the actors' time inside the teacher's models, over a minute. The rest: waiting, reading, committing.",
    ),
    Panel(
        "Masks: share of time in the queue",
        _share("ray_agevlm_segment_queue_seconds_total", "ray_agevlm_segment_actor_seconds_total"),
        "percentunit",
        "{{step}}",
        "Share of the actors' time in which they wait for decoded pictures, over a minute.",
    ),
    Panel(
        "Masks: images",
        f"max {_BY_STEP} (ray_agevlm_segment_images_done)",
        "none",
        "{{step}}",
        "Images whose shard is committed.",
    ),
    Panel(
        "LM loss",
        f"max {_BY_STEP} (ray_agevlm_train_lm_loss)",
        "none",
        "{{step}} {{artifact}}",
        "Per target token, over all workers.",
    ),
    Panel(
        "Guidance loss",
        f"max {_BY_STEP} (ray_agevlm_train_guidance_loss)",
        "none",
        "{{step}} {{artifact}}",
        "Eq. 3 of the paper, mean over guided rows. Guided stages only.",
    ),
    Panel(
        "Attention inside the mask",
        f"max {_BY_STEP} (ray_agevlm_train_attention_in_mask)",
        "percentunit",
        "{{step}} {{artifact}}",
        "Mean over cross-attention layers. Guided stages only; it should rise above even attention.",
    ),
    Panel(
        "Tokens per second",
        f"max {_BY_STEP} (ray_agevlm_train_tokens_per_second)",
        "none",
        "{{step}} {{artifact}}",
        "Of all workers together.",
    ),
    Panel(
        "Workers wait for data",
        f"max {_BY_STEP} (ray_agevlm_train_data_wait)",
        "percentunit",
        "{{step}} {{artifact}}",
        "Share of the training time; above 5 % the loader is too slow.",
    ),
    Panel(
        "Training waits for checkpoints",
        f"max {_BY_STEP} (ray_agevlm_train_checkpoint_seconds)",
        "s",
        "{{step}} {{artifact}}",
        "Seconds since the row of metrics before.",
    ),
    Panel(
        "Gradient norm",
        f"max {_BY_STEP} (ray_agevlm_train_gradient_norm)",
        "none",
        "{{step}} {{artifact}}",
        "Before clipping.",
    ),
)

PAGES: dict[str, tuple[Panel, ...]] = {"steps and machines": _STEPS, "masks and training": _WORK}
"""Title of a page -> its panels, at most PAGE_PANELS."""
PANELS: tuple[Panel, ...] = tuple(panel for panels in PAGES.values() for panel in panels)
PAGE_PANELS = 10
"""Panels of one graph page. The older page of Prometheus, which Debian ships, mixes up the queries of more."""


def graph_pages(base: str, minutes: int = 60) -> dict[str, str]:
    """Title -> address of Prometheus' own graph page, with all queries of that page filled in."""
    return {title: graph_url(base, panels, minutes) for title, panels in PAGES.items()}


def graph_url(base: str, panels: Sequence[Panel], minutes: int = 60) -> str:
    """Address of Prometheus' own graph page with the queries of these panels filled in.

    Args:
        base: address of Prometheus.
        panels: at most PAGE_PANELS.
        minutes: the time that the charts show, up to now.
    """
    assert len(panels) <= PAGE_PANELS, len(panels)
    parts = [
        f"g{number}.expr={quote(panel.query, safe='')}&g{number}.tab=0&g{number}.range_input={minutes}m"
        for number, panel in enumerate(panels)
    ]
    return f"{base.rstrip('/')}/graph?{'&'.join(parts)}"
