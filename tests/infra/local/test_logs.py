"""A log is set aside once it is long, the oldest are forgotten, and no line is lost from those that are kept."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from infra.local.logs import rotate


@given(st.lists(st.integers(0, 30), max_size=12))
def test_the_newest_logs_are_kept_in_order(lengths: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log, written = Path(folder) / "ray.log", ""
        for turn, length in enumerate(lengths):
            rotate(log, longest=20, kept=2)
            text = chr(ord("a") + turn) * length
            written += text
            with open(log, "a", encoding="ascii") as stream:
                stream.write(text)
        files = [log.with_name(name) for name in ("ray.log.2", "ray.log.1", "ray.log")]
        kept = "".join(file.read_text() for file in files if file.exists())
        assert written.endswith(kept)
        assert len(list(Path(folder).iterdir())) <= 3
        assert len(kept) >= min(len(written), 20)


def test_a_short_log_is_appended_to_and_a_missing_one_is_fine(tmp_path: Path) -> None:
    rotate(tmp_path / "no.log")
    log = tmp_path / "prefect.log"
    log.write_text("line\n")
    rotate(log)
    assert [file.name for file in tmp_path.iterdir()] == ["prefect.log"]
