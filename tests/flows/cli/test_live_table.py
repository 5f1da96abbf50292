"""The tables of a flow run on the terminal."""

import io

from rich.console import Console

from flows.cli.live_table import final_table, live_table, visible
from flows.cli.watch import RunSnapshot
from tests.flows.cli.fixtures_runs import RUNNING, record, step


def test_a_small_terminal_shows_what_runs() -> None:
    steps = tuple(step(f"s{i}", "completed" if i < 10 else "running" if i == 10 else "pending") for i in range(22))
    shown = visible(steps, 6)
    assert len(shown) == 6
    assert steps[10] in shown
    assert visible(steps, 22) == steps
    assert visible(steps[:10], 4) == steps[6:10]  # all are done: the last ones


def test_tables_hold_ids_states_rows_and_times() -> None:
    done = step("segment-pretrain", "completed", rows_in=240, rows_out=233, rejected={"no_region": 7}, seconds=41.0)
    snapshot = RunSnapshot(
        RUNNING, record(done, step("masks", "running")), {"masks": {"done": 1, "total": 2}}, {"masks": 3.0}, 50
    )
    out = Console(file=io.StringIO(), width=140)
    out.print(final_table(snapshot))
    out.print(live_table(snapshot, 30))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    for words in ("segment-pretrain", "segment-pret ", "completed", "240 in, 233 out", "7 no_region", "41 s"):
        assert words in text
    assert "1 of 2 steps" in text
    assert "1/2 rows" in text
