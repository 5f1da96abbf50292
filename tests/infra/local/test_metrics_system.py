"""Metrics on a real stack: Prometheus reads a run that makes masks and trains, and every panel has data.

Grafana is a stand-in that answers Ray's health request: the real one was not at hand.
"""

import json
import os
import re
import shutil
import sys
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.local.web import Refused, Server, basic
from infra.prometheus.configuration import USER
from pipeline.artifacts.paths import PROJECT
from pipeline.compute.panels import PAGES, PANELS, graph_pages
from tests.flows.fixtures_browser import open_page
from tests.infra.local.fixtures_home import Home

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed"),
]
SHORT = {
    "name: miniature": "name: short",
    "variants: [ca_baseline, age_vlm, age_vlm_lm]": "variants: [age_vlm]",
    "subset: 240": "subset: 64",
    "shard_images: 32": "shard_images: 8",
    "stage1: {max_steps: 300, epochs: 7}": "stage1: {max_steps: 10, epochs: 7}",
    "stage2: {max_steps: 300, epochs: 7}": "stage2: {max_steps: 10, epochs: 7}",
    "stage3: {max_steps: 100, epochs: 3}": "stage3: {max_steps: 40, epochs: 30}",
}
"""Changes of the miniature recipe: few steps."""
GRAFANA = f"""#!{sys.executable}
import configparser, http.server, sys

assert sys.argv[1] == "server"
ini = configparser.RawConfigParser()
assert ini.read(sys.argv[sys.argv.index("--config") + 1])

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{{"database": "ok", "version": "0"}}')

server = ini["server"]
http.server.ThreadingHTTPServer((server["http_addr"], int(server["http_port"])), Health).serve_forever()
"""


@dataclass(frozen=True)
class HomeWithGrafana(Home):
    """A home whose PATH has the stand-in."""

    programs: Path = Path("/")

    @property
    def environment(self) -> dict[str, str]:
        found = super().environment
        return {**found, "PATH": f"{self.programs}{os.pathsep}{found['PATH']}"}

    @property
    def prometheus(self) -> Server:
        """Prometheus' HTTP API."""
        return Server(self.state.url("prometheus"), basic(f"{USER}:{self.secret}"))

    def points(self, query: str, minutes: float) -> int:
        """Values of a query over the last minutes."""
        now = time.time()
        fields = {"query": query, "start": now - 60 * minutes, "end": now, "step": 5}
        answer: Any = self.prometheus.insist(f"/api/v1/query_range?{urllib.parse.urlencode(fields)}")
        return sum(value != "NaN" for series in answer["data"]["result"] for _, value in series["values"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HomeWithGrafana]:
    """A stack that is up, with Prometheus and the stand-in for Grafana."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "bin").mkdir()
    program = folder / "bin" / "grafana"
    program.write_text(GRAFANA)
    program.chmod(0o755)
    found = HomeWithGrafana(folder / "home", folder / "bin")
    result = found.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{found.state.url('grafana')}/d/agevlm" in result.stdout
    yield found
    found.agevlm("down")


def test_rays_page_finds_both(home: HomeWithGrafana) -> None:
    assert home.ray.call("/api/prometheus_health")["result"] is True
    grafana = home.ray.call("/api/grafana_health")
    assert grafana["result"] is True
    assert grafana["data"]["grafanaHost"] == home.state.url("grafana")
    assert grafana["data"]["dashboardDatasource"] == "Prometheus"
    dashboards = home.path / "grafana" / "ray-dashboards"
    titles = {json.loads(file.read_text())["title"] for file in dashboards.glob("*.json")}
    assert {"Default Dashboard", "Train Dashboard"} <= titles


def test_prometheus_asks_for_the_secret_and_is_small(home: HomeWithGrafana) -> None:
    for wrong in ("", basic("agevlm:wrong"), basic(home.secret)):
        with pytest.raises(Refused) as refused:
            Server(home.prometheus.url, wrong).call("/api/v1/targets")
        assert refused.value.status == 401
    assert home.secret not in (home.path / "prometheus" / "web.yml").read_text()
    for file in ("prometheus/web.yml", "grafana/provisioning/datasources/prometheus.yml", "grafana/grafana.ini"):
        assert (home.path / file).stat().st_mode & 0o077 == 0
    record = home.state.processes["prometheus"]
    status = Path(f"/proc/{record.pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert resident is not None
    assert int(resident[1]) < 150 * 1024  # kB; about 50 MB on an idle stack


def test_every_panel_has_data_during_and_after_a_run(home: HomeWithGrafana, tmp_path: Path) -> None:
    text = (PROJECT / "flows" / "recipes" / "miniature.yaml").read_text()
    for old, new in SHORT.items():
        assert old in text
        text = text.replace(old, new)
    recipe = tmp_path / "short.yaml"
    recipe.write_text(text)
    started = time.time()
    run = ["run", "agevlm/full-recipe", "-p", f"recipe={recipe}", "-p", "limit=160", "-p", "until=stage3", "--watch"]
    result = home.agevlm(*run)
    assert result.returncode == 0, result.stdout + result.stderr
    empty: list[str] = []

    def all_have_data() -> bool:
        minutes = (time.time() - started) / 60 + 0.1
        empty[:] = [panel.title for panel in PANELS if not home.points(panel.query, minutes)]
        return not empty

    time.sleep(10)  # two readings
    assert all_have_data(), f"no data: {empty}"
    notes: Any = home.prefect.insist("/artifacts/filter", {"artifacts": {"key": {"any_": ["short-metrics"]}}})
    assert all(page in notes[0]["data"] for page in graph_pages(home.prometheus.url).values())


def test_prometheus_page_draws_every_panel(home: HomeWithGrafana, tmp_path: Path) -> None:
    addresses = graph_pages(home.prometheus.url, minutes=15)
    with open_page(height=1600) as page:
        for number, (title, panels) in enumerate(PAGES.items()):
            page.goto(addresses[title].replace("http://", f"http://{USER}:{home.secret}@"))
            page.wait_for_function(f"document.querySelectorAll('svg path').length >= {len(panels)}", timeout=120_000)
            typed = page.eval_on_selector_all("textarea[name=expr]", "fields => fields.map(field => field.value)")
            assert typed == [panel.query for panel in panels]
            page.screenshot(path=str(tmp_path / f"{number}.png"), full_page=True)
