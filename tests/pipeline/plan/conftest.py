"""Fixtures of the tests of fingerprints."""

import pytest


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no file had changed recently."""
    monkeypatch.setattr("pipeline.plan.fingerprints.RECENT_NS", 0)
