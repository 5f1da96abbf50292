"""What a history lets one say about guidance."""

from collections.abc import Sequence

import pytest

from model.history import History, Stage, Weights


def history(stages: Sequence[tuple[str, bool, int | None]]) -> History:
    rows = tuple(Stage(row, "id", guidance, guided, {}, {}) for row, guidance, guided in stages)
    return History(artifact="checkpoint/x/y", variant=None, stages=rows, dtype="float32")


START = [("stage1", False, 0), ("stage2", False, 0)]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([*START, ("stage3", True, 7)], "acted"),
        ([*START, ("stage3", True, 0)], "idle"),
        ([*START, ("stage3", True, None)], "unknown"),
        ([*START, ("stage3_baseline", False, 0)], "off"),
        ([*START, ("stage3", True, 0), ("stage4_lm", True, 3)], "acted"),
        ([("stage4_baseline", False, 0)], "unknown"),  # what came before it is lost
        ([("stage4_lm", True, 3)], "acted"),
    ],
)
def test_guidance(stages: Sequence[tuple[str, bool, int | None]], expected: str) -> None:
    assert history(stages).guidance == expected


def test_a_name_on_a_hub() -> None:
    assert Weights("language model", "hub:meta/llama@" + "a" * 40).hub_name == "meta/llama"
    assert Weights("language model", "a" * 64).hub_name is None
