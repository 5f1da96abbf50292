"""Locators round trip, and are never taken for a file's path."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.images.locators import KeptPlace, TarPlace, image_name, parse_locator
from pipeline.sources.images.references import check_safe


@given(st.text(min_size=1), st.integers(0), st.integers(0), st.text())
def test_places_round_trip(file: str, offset: int, size: int, name: str) -> None:
    for place in (TarPlace(file, offset, size, name), KeptPlace(file, offset, name)):
        try:
            text = place.text()
        except UnicodeEncodeError:  # a lone surrogate in the archive's name
            return
        assert parse_locator(text) == place
        assert image_name(text) == name


@given(st.text(min_size=1, max_size=30))
def test_a_reference_that_is_safe_is_a_files_path(reference: str) -> None:
    try:
        check_safe(reference)
    except Exception:
        return
    assert parse_locator(reference) == reference
