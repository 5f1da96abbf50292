"""The table of metrics: the documentation lists it, and the panels use nothing else of ours."""

import re
from urllib.parse import parse_qs, urlsplit

from pipeline.artifacts.paths import PROJECT
from pipeline.compute.metrics import METRICS, TAGS, tags_of
from pipeline.compute.panels import PAGES, PANELS, graph_pages


def test_the_documentation_lists_every_metric_with_its_unit() -> None:
    text = (PROJECT / "docs" / "slow.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(ray_agevlm_\w+)` \| (\S+) \|", text, re.M)
    assert listed == [(metric.series, metric.unit) for metric in METRICS]


def test_the_documentation_names_panels_that_exist() -> None:
    text = (PROJECT / "docs" / "slow.md").read_text(encoding="utf-8").split("## What is shown")[0]
    column = [line.split("|")[2] for line in text.splitlines() if line.startswith("| ") and '"' in line.split("|")[2]]
    named = {name for cell in column for name in re.findall(r'"([^"]+)"', cell)}
    assert named
    assert named <= {panel.title for panel in PANELS}


def test_panels_use_metrics_and_tags_that_exist() -> None:
    series = {metric.series for metric in METRICS}
    tags = {tag for metric in METRICS for tag in metric.tags}
    for panel in PANELS:
        assert set(re.findall(r"ray_agevlm_\w+", panel.query)) <= series, panel.title
        if "ray_agevlm" in panel.query:
            assert set(re.findall(r"{{(\w+)}}", panel.legend)) <= tags
            assert set(re.findall(r"{{(\w+)}}", panel.legend)) <= set(re.findall(r"\w+", panel.query))
    assert len({panel.title for panel in PANELS}) == len(PANELS)


def test_no_two_metrics_share_a_name_and_all_have_the_common_tags() -> None:
    assert len({metric.series for metric in METRICS}) == len(METRICS)
    assert all(metric.tags[: len(TAGS)] == TAGS for metric in METRICS)
    assert tags_of("paper", "stage1", "ab" * 32) == {"recipe": "paper", "step": "stage1", "artifact": "abababababab"}


def test_the_link_has_every_query() -> None:
    for title, link in graph_pages("http://127.0.0.1:9090/").items():
        address, panels = urlsplit(link), PAGES[title]
        fields = parse_qs(address.query)
        assert (address.netloc, address.path) == ("127.0.0.1:9090", "/graph")
        assert [fields[f"g{number}.expr"] for number in range(len(panels))] == [[panel.query] for panel in panels]
        assert {fields[f"g{number}.tab"][0] for number in range(len(panels))} == {"0"}  # 0: the graph, 1: a table
        assert len(panels) <= 10  # Debian's page sorts g10 between g1 and g2
