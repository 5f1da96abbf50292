"""Our Grafana dashboard as JSON, made from a table of panels that is handed in.

`dashboards/agevlm.json` is its output for the project's panels; a test keeps both equal.
"""

import json
from collections.abc import Sequence
from typing import Any, Protocol

COLUMNS, HEIGHT = 2, 8
"""Panels of a row, and their height in Grafana's units; a row is 24 units wide."""
SCHEMA_VERSION = 39
"""Version of the format of dashboards: Grafana 11's. Newer ones convert it."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Panel(Protocol):
    """What a panel needs: its texts, its query in PromQL, and Grafana's name of its unit."""

    @property
    def title(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def legend(self) -> str: ...
    @property
    def text(self) -> str: ...


def dashboard(panels: Sequence[Panel]) -> str:
    """The dashboard's JSON."""
    content = {
        "uid": "agevlm",
        "title": "agevlm",
        "description": "Steps, masks, training and machines of agevlm",
        "tags": ["agevlm", "ray"],
        "editable": False,
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "refresh": 1,
                    "hide": 2,
                }
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }
    return json.dumps(content, indent=1) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    width = 24 // COLUMNS
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": {"x": width * (number % COLUMNS), "y": HEIGHT * (number // COLUMNS), "w": width, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"spanNulls": 30000, "fillOpacity": 5}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": "A", "expr": panel.query, "legendFormat": panel.legend, "datasource": SOURCE, "range": True}
        ],
    }
