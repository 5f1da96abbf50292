"""The dealing of targets: each is hit once before one comes again, also if some are not there for a while."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.driver import Deal

TARGETS = {"actor": "a", "decoder": "b", "driver": "", "raylet": "c"}


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), there=st.lists(st.booleans(), max_size=60))
def test_no_target_is_hit_twice_before_all_are_hit(seed: int, there: list[bool]) -> None:
    deal = Deal(random.Random(seed), TARGETS)
    for found in there:
        deal.hit() if found else deal.postpone()
        counts = [deal.hits[target] for target in TARGETS]
        assert max(counts) - min(counts) <= 1
    assert deal.hits.total() == sum(there)
