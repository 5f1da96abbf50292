"""The reject limit."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import DataError
from pipeline.artifacts.shards import Shards
from pipeline.artifacts.store import ArtifactStore
from pipeline.steps.reject_limit import check_reject_limit, earlier_commits, exceeds


def test_the_message_counts_reasons_and_names_limit_and_remedy() -> None:
    with pytest.raises(DataError) as caught:
        check_reject_limit("records of x", {"torn": 1, "gone": 3, "bad": 1, "none": 0}, 40, 0.1, "Repair them.")
    assert str(caught.value).splitlines() == [
        "5 of 40 records of x were rejected, more than max_reject_share = 0.1 allows:",
        "  gone: 3",
        "  bad: 1",
        "  torn: 1",
        "Repair them.",
    ]


def test_rejecting_every_row_fails_at_any_limit() -> None:
    with pytest.raises(DataError, match="4 of 4 rows were rejected, so nothing would be left:\n  gone: 4\nDo it"):
        check_reject_limit("rows", {"gone": 4}, 4, 1.0, "Do it")
    check_reject_limit("rows", {"gone": 3}, 4, 1.0, "")
    check_reject_limit("rows", {}, 0, 0.0, "")


@pytest.mark.parametrize(("others", "kept"), [({}, {0, 1}), ({"too_long": 2}, {0})])
def test_shards_with_rejects_are_made_again_if_all_rejects_exceed_the_limit(
    tmp_path: Path, others: dict[str, int], kept: set[int]
) -> None:
    """Also if the limit is exceeded only with rows that are rejected outside of the shards."""
    shards = Shards(ArtifactStore(str(tmp_path)), "kind/name/id/data-0", "inputs")
    for name, rejects in (("a", []), ("b", [["1", "image_changed", ""], ["2", "image_changed", ""]])):
        shards.commit(name, {f"{name}.bin": b"x"}, 8, {"rejects": rejects})
    assert set(earlier_commits(shards, ["a", "b"], 20, 0.1, others)) == kept
    assert len(shards.committed()) == len(kept)


@given(st.integers(1, 10**7), st.data())
def test_the_limit_is_exact(total: int, data: st.DataObject) -> None:
    """No rounding error: 29 of 100 rows are not more than a share of 0.29, though 0.29 * 100 < 29 in floats."""
    hundredths, count = data.draw(st.integers(0, 100)), data.draw(st.integers(0, total))
    allowed = Decimal(hundredths) / 100 * total
    assert exceeds({"r": count}, total, hundredths / 100) == (count > 0 and (count > allowed or count == total))
