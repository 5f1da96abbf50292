"""The reject budget."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import DataError
from pipeline.budget import check_budget, exceeds


def test_the_message_counts_reasons_and_names_limit_and_remedy() -> None:
    with pytest.raises(DataError) as caught:
        check_budget("records of x", {"torn": 1, "gone": 3, "bad": 1, "none": 0}, 40, 0.1, "Repair them.")
    assert str(caught.value).splitlines() == [
        "5 of 40 records of x were rejected, more than max_reject_share = 0.1 allows:",
        "  gone: 3",
        "  bad: 1",
        "  torn: 1",
        "Repair them.",
    ]


def test_a_step_that_would_leave_nothing_fails_whatever_the_recipe_allows() -> None:
    with pytest.raises(DataError, match="4 of 4 rows were rejected, so nothing would be left:\n  gone: 4\nDo it"):
        check_budget("rows", {"gone": 4}, 4, 1.0, "Do it")
    check_budget("rows", {"gone": 3}, 4, 1.0, "")
    check_budget("rows", {}, 0, 0.0, "")


@given(st.integers(1, 10**7), st.data())
def test_the_limit_is_exact(total: int, data: st.DataObject) -> None:
    """No rounding: 29 of 100 rows are not more than a share of 0.29, though 0.29 * 100 is below 29 in floats."""
    hundredths, count = data.draw(st.integers(0, 100)), data.draw(st.integers(0, total))
    allowed = Decimal(hundredths) / 100 * total
    assert exceeds({"r": count}, total, hundredths / 100) == (count > 0 and (count > allowed or count == total))
