"""The report and the comparison in a real browser: texts from data are shown, and nothing of them runs."""

from pathlib import Path

import pytest

from pipeline.artifacts.store import ArtifactStore
from pipeline.report.compare import compare
from pipeline.report.compare_page import compare_page
from tests.flows.fixtures_browser import open_page
from tests.pipeline.report.fixtures_artifacts import Fabric
from tests.pipeline.report.test_compare import mask_row, publish, square
from tests.pipeline.report.test_page import page_of

pytestmark = pytest.mark.system
EVIL = (
    '<script>document.title="run"</script>"><img src=x onerror="document.title=\'run\'"></script></style></svg>'
    "<svg onload=\"document.title='run'\"> javascript:document.title='run' {{ 7*7 }} &lt;b&gt;"
)


def shown_in_browser(page: str, folder: Path) -> str:
    """The text that a browser shows of a page, without its Content-Security-Policy, which would hide a fault."""
    assert page.count('http-equiv="Content-Security-Policy"') == 1
    file = folder / "page.html"
    file.write_text(page.replace("Content-Security-Policy", "X-Nothing"), encoding="utf-8")
    with open_page() as browser:
        asked: list[str] = []
        browser.on("request", lambda request: asked.append(request.url))
        browser.on("dialog", lambda dialog: pytest.fail("a dialog opened"))
        browser.goto(file.as_uri())
        browser.wait_for_timeout(500)
        assert browser.title() != "run"
        assert browser.locator("script, iframe, object, embed").count() == 0
        assert browser.locator("a[href^='javascript']").count() == 0
        assert [url for url in asked if not url.startswith(("data:", file.as_uri()))] == []
        return browser.inner_text("body")


def test_the_report_shows_hostile_texts(tmp_path: Path) -> None:
    words = shown_in_browser(page_of(Fabric(tmp_path, scenes=10, evil=f" {EVIL}").report()), tmp_path)
    assert '<script>document.title="run"</script>' in words


def test_the_comparison_shows_hostile_texts_ids_and_reasons(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    before = [mask_row(1, square(0), query=EVIL, sample_id=EVIL)]
    after = [mask_row(1, None, f"Error: {EVIL}", query=EVIL, sample_id=EVIL)]
    page = compare_page(compare(publish(store, before, tried=EVIL), publish(store, after, tried=2)))
    assert EVIL in shown_in_browser(page, tmp_path)
