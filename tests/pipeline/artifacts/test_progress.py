"""The progress of a step: a line for people, a small file for programs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts import progress as module
from pipeline.artifacts.progress import Progress, Speed, progress_text, read_progress, time_text
from pipeline.artifacts.store import ArtifactStore


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"done": 3, "total": 9, "unit": "record", "values": {"loss": 0.123456}}, "3/9 records  loss 0.1235"),
        ({"done": 3, "total": 9, "unit": "query", "values": {}}, "3/9 queries"),
        ({"done": 3, "total": 9}, "3/9 rows"),
        (
            {"done": 3, "total": 9, "unit": "sample", "values": {"loss": 0.5, "tokens/s": 51234.5}, "seconds_left": 720}
            | {"note": "data wait 12 %"},
            "3/9 samples  12 min left  loss 0.5  tokens/s 51234  warning: data wait 12 %",
        ),
        (None, ""),
    ],
)
def test_a_line_of_progress(state: dict[str, object] | None, text: str) -> None:
    assert progress_text(state) == text


def test_the_last_update_is_always_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ArtifactStore(str(tmp_path))
    assert read_progress(store, "an-id") is None
    progress = Progress(store, "an-id", "query")
    for done in range(1, 6):  # faster than it writes or prints
        progress.update(done, 5, errors=float(done))
    state = read_progress(store, "an-id")
    assert state is not None
    assert (state["done"], state["total"], state["values"]) == (5, 5, {"errors": 5.0})
    assert capsys.readouterr().out.splitlines() == ["1/5 queries  errors 1", "5/5 queries  errors 5"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (89, "89 s"),
        (90, "2 min"),
        (719, "12 min"),
        (5399, "1 h 30 min"),
        (12_000, "3 h 20 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
        (190_800, "2 d 5 h"),
    ],
)
def test_a_time_in_words(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


@given(st.integers(1, 500), st.integers(0, 10**6), st.floats(0.5, 300), st.integers(2, 400))
def test_the_time_left_is_exact_at_a_steady_speed(step: int, before: int, period: float, updates: int) -> None:
    """Whatever was done before the first update does not count: it was done by an earlier run."""
    speed, total = Speed(), before + step * 1000
    for number in range(updates):
        left = speed.seconds_left(1e4 + number * period, before + number * step, total)
    assert left == pytest.approx((1000 - number) * period)


def test_the_time_left_follows_the_recent_speed() -> None:
    speed = Speed()
    assert speed.seconds_left(0.0, 0, 1000) is None
    for second in range(1, 101):
        speed.seconds_left(float(second), second, 1000)
    slow = 0.0
    for number in range(1, 61):  # ten times slower
        slow = speed.seconds_left(100.0 + 10 * number, 100 + number, 1000) or 0.0
    assert slow == pytest.approx(10 * 840)
    assert speed.seconds_left(1000.0, 1000, 1000) == 0


def test_a_step_that_stands_still_takes_longer_and_longer() -> None:
    speed = Speed()
    speed.seconds_left(0.0, 0, 10)
    lefts = [speed.seconds_left(10.0 + wait, 5, 10) or 0.0 for wait in (0, 50, 500)]
    assert lefts == [pytest.approx(10), pytest.approx(60), pytest.approx(510)]


def test_time_left_and_note_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.0, 110.0, 120.0, 130.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    store = ArtifactStore(str(tmp_path))
    progress = Progress(store, "an-id", "sample")
    progress.update(500, 600)  # resumed: 500 were done by an earlier run
    assert "seconds_left" not in (read_progress(store, "an-id") or {})
    progress.note = "loss spike"
    progress.update(520, 600)
    state = read_progress(store, "an-id") or {}
    assert (state["seconds_left"], state["note"]) == (40.0, "loss spike")
    progress.note = ""
    progress.update(540, 600)
    assert "note" not in (read_progress(store, "an-id") or {})
    progress.update(600, 600)
    assert "seconds_left" not in (read_progress(store, "an-id") or {})
