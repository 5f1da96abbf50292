"""docs/operate.md: its table of events is that of the code, and its script follows a run."""

import json
import re
import subprocess
import sys
from pathlib import Path

from flows.run.event_log import read_events
from flows.run.events import EVENTS
from pipeline.artifacts.paths import PROJECT
from tests.flows.fixtures_fake_ray import begin_run

TEXT = (PROJECT / "docs" / "operate.md").read_text(encoding="utf-8")


def test_the_table_of_events_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)
    documented = {name: (meaning, re.findall(r"`(\w+)`", fields)) for name, meaning, fields in rows}
    assert documented == {name: (kind.meaning, list(kind.fields)) for name, kind in EVENTS.items()}


def test_the_documented_script_follows_a_run(tmp_path: Path) -> None:
    store, run = begin_run(tmp_path)
    run.step("a", state="running")
    run.step("a", state="completed", rows_in=30, rows_out=28, rejected={"odd": 2}, seconds=2.0, bytes=1)
    run.step(
        "b",
        state="failed",
        message="DataError: 9 of 10 rows were rejected, more than max_reject_share = 0.3 allows:\n  odd: 9",
    )
    run.update(state="failed", message="failed: b")
    (script,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "follow.py").write_text(script, encoding="utf-8")
    lines = "".join(json.dumps(event) + "\n" for event in read_events(store, "run-1"))
    result = subprocess.run(
        [sys.executable, str(tmp_path / "follow.py")], input=lines, capture_output=True, text=True, check=True
    )
    out = result.stdout.splitlines()
    assert out[0] == "a: 28 of 30 rows (row), 15.0 a second"
    assert out[1] == "b: reject_budget: {'odd': 9}"
    assert out[-1] == "the run failed: failed: b"
