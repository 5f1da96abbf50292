"""A phase's results come back from JSON as they were, to the last bit."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from model.teachers.finding import Found
from model.teachers.polygons import Region
from pipeline.masks.carried import from_json, to_json

NUMBERS = st.floats(allow_nan=False)
REGIONS = st.builds(Region, st.lists(st.lists(NUMBERS, min_size=6).map(tuple), min_size=1).map(tuple))
FOUND = st.builds(
    Found,
    query=st.text(),
    regions=st.lists(REGIONS, max_size=3).map(tuple),
    error=st.text(),
    reason=st.text(),
    score=st.none() | NUMBERS,
)


@settings(max_examples=30)
@given(st.lists(st.lists(FOUND, max_size=3), max_size=3))
def test_results_come_back_as_they_were(found: list[list[Found]]) -> None:
    assert from_json(to_json(found), Found) == found


def test_a_score_that_is_no_number_comes_back() -> None:
    (back,) = from_json(to_json([[Found("a", score=math.nan)]]), Found)
    assert back[0].score is not None
    assert math.isnan(back[0].score)
