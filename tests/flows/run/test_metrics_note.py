"""The note that links a run to its charts."""

from typing import Any

import pytest

from flows.run import metrics_note
from flows.run.metrics_note import PROMETHEUS_URL, leave_metrics_note
from pipeline.compute.panels import PANELS, graph_pages, graph_url


def test_the_note_links_to_every_chart_and_only_where_there_is_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[dict[str, Any]] = []
    monkeypatch.setattr(
        metrics_note, "create_markdown_artifact", lambda text, **facts: left.append({"text": text, **facts})
    )
    monkeypatch.delenv(PROMETHEUS_URL, raising=False)
    leave_metrics_note("miniature")
    assert left == []
    monkeypatch.setenv(PROMETHEUS_URL, "http://127.0.0.1:9090")
    leave_metrics_note("miniature")
    (note,) = left
    assert note["key"] == "miniature-metrics"
    assert all(page in note["text"] for page in graph_pages("http://127.0.0.1:9090").values())
    assert all(f"[{panel.title}]({graph_url('http://127.0.0.1:9090', [panel])})" in note["text"] for panel in PANELS)
