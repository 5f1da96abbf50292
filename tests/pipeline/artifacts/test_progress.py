"""The progress of a step: a line for people, a small file for programs."""

from pathlib import Path

import pytest

from pipeline.artifacts.progress import Progress, progress_text, read_progress
from pipeline.artifacts.store import ArtifactStore


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"done": 3, "total": 9, "unit": "record", "values": {"loss": 0.123456}}, "3/9 records  loss 0.1235"),
        ({"done": 3, "total": 9, "unit": "query", "values": {}}, "3/9 queries"),
        ({"done": 3, "total": 9}, "3/9 rows"),
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
