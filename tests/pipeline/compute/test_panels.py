"""Queries of the panels, evaluated by Prometheus' own tester on made-up readings."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.compute.panels import PANELS, Panel

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
TAGS = 'recipe="miniature",step="segment",artifact="ab"'
QUERIES = {panel.title: panel.query for panel in PANELS}


def evaluate(folder: Path, query: str, series: dict[str, str], at: str, expected: list[tuple[str, float]]) -> None:
    """Compare a query's values, with their labels, with the expected ones.

    Args:
        folder: for a file.
        query: PromQL.
        series: series -> readings every 5 seconds, in promtool's notation; '_' is a missing reading.
        at: time of the evaluation, from the first reading on.
        expected: labels and value of each series of the answer.
    """
    samples = [{"labels": labels, "value": value} for labels, value in expected]
    test = {
        "interval": "5s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": query, "eval_time": at, "exp_samples": samples}],
    }
    file = folder / "test.yml"
    file.write_text(json.dumps({"tests": [test]}))  # JSON is YAML
    result = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_one_reading_of_each_series_is_enough_for_every_panel(tmp_path: Path, panel: Panel) -> None:
    names = set(re.findall(r"ray_\w+", panel.query))
    assert names
    one = {f'{name}{{{TAGS},Name="CPU"}}': "4" for name in names}
    evaluate(tmp_path, f"count({panel.query}) > 0", one, "5s", [("{}", 1)])


@pytest.mark.parametrize("part", ["model", "queue"])
def test_a_share_of_time_is_that_of_the_last_minute_over_all_actors(tmp_path: Path, part: str) -> None:
    title = {"model": "Masks: share of time in the models", "queue": "Masks: share of time in the queue"}[part]
    # Two actors: for two minutes both are busy half of their time, then one of them is for a quarter.
    series = {
        f'ray_agevlm_segment_{part}_seconds_total{{{TAGS},WorkerId="a"}}': "0+5x48",
        f'ray_agevlm_segment_actor_seconds_total{{{TAGS},WorkerId="a"}}': "0+10x48",
        f'ray_agevlm_segment_{part}_seconds_total{{{TAGS},WorkerId="b"}}': "0+5x24 120+2.5x23",
        f'ray_agevlm_segment_actor_seconds_total{{{TAGS},WorkerId="b"}}': "0+10x48",
    }
    evaluate(tmp_path, QUERIES[title], series, "110s", [(f"{{{TAGS}}}", 0.5)])
    evaluate(tmp_path, QUERIES[title], series, "235s", [(f"{{{TAGS}}}", 0.375)])


def test_a_share_without_a_rate_is_that_since_the_start(tmp_path: Path) -> None:
    series = {
        f"ray_agevlm_segment_model_seconds_total{{{TAGS}}}": "3 3 3",
        f"ray_agevlm_segment_actor_seconds_total{{{TAGS}}}": "4 4 4",
    }
    evaluate(tmp_path, QUERIES["Masks: share of time in the models"], series, "10s", [(f"{{{TAGS}}}", 0.75)])
