"""Notes about work: they stay when a process dies, and go when the work ends or fails."""

from pathlib import Path

import pytest

from pipeline.artifacts.store import ArtifactStore
from pipeline.masks.attempts import Attempts


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    return Attempts(ArtifactStore(str(tmp_path)), "work/id/attempts")


def test_a_note_is_there_while_the_work_goes_on_and_gone_after_it(attempts: Attempts) -> None:
    with attempts.noted("part-0", "decode"):
        assert attempts.deaths("part-0") == 1
        assert attempts.deaths("part-1") == 0
    assert attempts.deaths("part-0") == 0


def test_an_error_is_no_death(attempts: Attempts) -> None:
    with pytest.raises(KeyError), attempts.noted("part-0", "decode"):
        raise KeyError
    assert attempts.deaths("part-0") == 0


def test_two_deaths_make_a_shard_suspect_until_they_are_forgotten(attempts: Attempts) -> None:
    for process in range(2):
        assert not attempts.suspect("part-0")
        attempts._write(f"{attempts._folder('part-0')}/decode-{process}.json", b"{}")  # as after kill -9
    attempts.write_journal("part-0", {"decode 0..3 1": "died"})
    with attempts.noted("part-1", "decode"):
        assert attempts.suspects() == {"part-0"}
    assert attempts.suspect("part-0")
    attempts.forget("part-0")
    assert not attempts.suspect("part-0")
    assert attempts.read_journal("part-0") == {"decode 0..3 1": "died"}
    attempts.forget_all()
    assert attempts.read_journal("part-0") == {}
