"""Grafana's dashboard: the committed file is the table of panels.

`python -m tests.infra.grafana.test_dashboard` writes it again after a change of the table.
"""

import json
from pathlib import Path

from infra.grafana.dashboard import dashboard
from infra.grafana.provisioning import DASHBOARDS
from pipeline.compute.panels import PANELS

FILE = DASHBOARDS / "agevlm.json"


def test_the_committed_dashboard_is_made_from_the_table() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert text == dashboard(PANELS), "run: python -m tests.infra.grafana.test_dashboard"


def test_every_panel_has_its_place_and_its_query() -> None:
    content = json.loads(dashboard(PANELS))
    assert [p["targets"][0]["expr"] for p in content["panels"]] == [panel.query for panel in PANELS]
    assert len({p["id"] for p in content["panels"]}) == len(PANELS)
    places = {
        (x, p["gridPos"]["y"]) for p in content["panels"] for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + 12)
    }
    assert len(places) == 12 * len(PANELS)  # none covers another
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in content["panels"])
    variables = {variable["name"] for variable in content["templating"]["list"]}
    assert {p["datasource"]["uid"] for p in content["panels"]} == {f"${{{name}}}" for name in variables}


if __name__ == "__main__":
    Path(FILE).write_text(dashboard(PANELS), encoding="utf-8")
