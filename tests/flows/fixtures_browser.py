"""A headless browser for tests that look at pages: uses an installed Chromium, downloads nothing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def open_page(width: int = 1400, height: int = 1000) -> Iterator[Page]:
    """A page of a fresh profile. Skips the test if no browser is installed."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser is installed ({', '.join(PROGRAMS)})")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(Path(program)), args=list(QUIET))
        try:
            yield browser.new_page(viewport={"width": width, "height": height})
        finally:
            browser.close()
