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


def log_in_to_prefect(page: Page, address: str, secret: str) -> None:
    """Give Prefect's page the secret, as a user does; the pages opened after that in this profile need none."""
    page.goto(address)
    page.locator("input[type=password]").fill(secret, timeout=60_000)
    page.get_by_role("button", name="Login").click()
    page.get_by_text("Flow Runs").first.wait_for(timeout=60_000)


def log_in_to_ray(page: Page, address: str, secret: str) -> None:
    """Give Ray's dashboard the secret, as a user does."""
    page.goto(address)
    page.locator("input[type=password]").fill(secret, timeout=60_000)
    page.get_by_role("button", name="Submit").click()
    page.locator("input[type=password]").wait_for(state="detached", timeout=60_000)


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
