"""The note of a run that links to the charts of its metrics in Prometheus."""

import os

from prefect.artifacts import create_markdown_artifact

from flows.run.prefect_notes import artifact_key
from pipeline.compute.panels import PANELS, graph_pages, graph_url

PROMETHEUS_URL = "AGEVLM_PROMETHEUS_URL"
"""Address of the Prometheus that reads Ray's metrics, if there is one."""


def leave_metrics_note(recipe: str) -> None:
    """Put links to all charts into the Prefect UI; does nothing without PROMETHEUS_URL."""
    base = os.environ.get(PROMETHEUS_URL, "").strip()
    if base:
        create_markdown_artifact(
            metrics_note(recipe, base),
            key=artifact_key(recipe, "metrics"),
            description=f"Charts of {recipe}: progress, speed, losses, waits",
        )


def metrics_note(recipe: str, base: str) -> str:
    """The note as Markdown."""
    rows = [f"| [{panel.title}]({graph_url(base, [panel])}) | {panel.text} |" for panel in PANELS]
    links = ", ".join(f"[{title}]({page})" for title, page in graph_pages(base).items())
    return "\n".join(
        [
            f"## Metrics of {recipe}",
            "",
            f"All charts in Prometheus: {links}. "
            "It asks for the user `agevlm` and the stack's secret, "
            "which `agevlm up` tells where to find. Lines have the tags recipe, step and artifact.",
            "",
            "| chart | |",
            "|---|---|",
            *rows,
            "",
        ]
    )
