"""Warnings: each rule speaks where it should, and is silent on ordinary noise."""

from typing import Any

import numpy as np
import pytest

from pipeline.training.watch import warnings as module
from pipeline.training.watch.metrics import SPEED
from pipeline.training.watch.warnings import RULES, TIMED, StageFacts, Warnings

FACTS = StageFacts(steps=2000, guidance=True)
EVEN = 0.15


def rows_of(count: int = 200, seed: int = 0, rise: float = 0.0, start: float = EVEN, **columns: Any) -> list[Any]:
    """Rows of an ordinary stage: a loss that falls with noise of heavy tails, 38 guided rows each, little waiting.

    rise: of the attention in the mask over the whole stage.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        guided = int(rng.poisson(38))
        share = i / count
        row = {
            "step": 10 * (i + 1),
            "samples": 1280 * (i + 1),
            "lm_loss": 1.5 + 2 * 0.97**i + 0.05 * float(rng.standard_t(8)),
            "guided_rows": guided,
            # One guided row's mass has a deviation of 0.1.
            "attention_in_mask": [start + rise * share + 0.1 * float(rng.normal()) / max(guided, 1) ** 0.5] * 2,
            "even_in_mask": EVEN + 0.1 * float(rng.normal()) / max(guided, 1) ** 0.5,
            "data_wait": 0.6 if i == 0 else 0.01 * float(rng.random()),
            "held_out_loss": None,
        }
        rows.append(row | {name: value[i] if isinstance(value, list) else value for name, value in columns.items()})
    return rows


def names_of(rows: list[Any], facts: StageFacts = FACTS) -> set[str]:
    found = Warnings(facts, say=lambda line: None)
    found.follow(rows)
    return set(found.found)


def test_an_ordinary_stage_has_no_warning() -> None:
    """No false alarm of any rule at 8,000 rows of 40 stages, in which guidance takes effect: by 10 points in all."""
    alarms = [name for seed in range(40) for name in names_of(rows_of(seed=seed, rise=0.1))]
    assert alarms == []


@pytest.mark.parametrize(("rise", "start"), [(0.0, EVEN), (-0.1, EVEN)])
def test_guidance_without_effect_is_found(rise: float, start: float) -> None:
    found = [names_of(rows_of(seed=seed, rise=rise, start=start)) for seed in range(15)]
    assert sum("guidance_without_effect" in names for names in found) >= 14


def test_guidance_that_took_effect_in_an_earlier_stage_is_no_warning() -> None:
    assert names_of(rows_of(start=0.4)) == set()


def test_a_short_or_unguided_stage_says_nothing_about_guidance() -> None:
    assert names_of(rows_of(count=49)) == set()
    quiet = rows_of(guided_rows=0, attention_in_mask=None, even_in_mask=None)
    assert names_of(quiet, StageFacts(2000, guidance=False)) == set()
    assert names_of(quiet) == {"no_guided_rows"}


def test_no_guided_rows_is_counted_in_samples() -> None:
    guided = [5] * 10 + [0] * 10
    few = rows_of(20, guided_rows=guided, samples=[100 * (i + 1) for i in range(20)])
    assert names_of(few[:19]) == set()
    assert names_of(few) == {"no_guided_rows"}


def test_a_spike_is_found_once_and_a_jump_of_noise_is_not() -> None:
    rows = rows_of(rise=0.1)
    rows[120]["lm_loss"] += 2.0
    found = Warnings(FACTS, say=lambda line: None)
    found.follow(rows)
    assert {name: (f.rows, f.first_step) for name, f in found.found.items()} == {"loss_spike": (1, 1210)}
    early = rows_of(19, rise=0.1)
    early[18]["lm_loss"] += 9.0
    assert names_of(early) == set()


def test_waiting_for_data_must_last() -> None:
    waits = [0.9] + [0.01] * 19
    for index in (7, 9):  # two rows after a pause
        waits[index] = 0.5
    assert names_of(rows_of(20, data_wait=waits)) == set()
    assert names_of(rows_of(20, data_wait=[0.9] + [0.06] * 19)) == {"data_wait"}
    assert names_of(rows_of(20, data_wait=[0.9] + [0.05] * 19)) == set()


def test_a_rising_held_out_loss_while_the_training_loss_falls() -> None:
    falling = [3 - 0.05 * i for i in range(20)]

    def held_out(*values: float) -> list[float | None]:
        return [values[i // 5] if i % 5 == 4 else None for i in range(20)]

    assert names_of(rows_of(20, lm_loss=falling, held_out_loss=held_out(2, 1.8, 1.9, 2.0))) == {"held_out_rises"}
    assert names_of(rows_of(20, held_out_loss=held_out(2, 1.8, 1.7, float("nan")))) == {"held_out_not_finite"}
    assert names_of(rows_of(20, lm_loss=falling, held_out_loss=held_out(2, 1.8, 1.9, 1.82))) == set()
    assert names_of(rows_of(20, lm_loss=3.0, held_out_loss=held_out(2, 1.8, 1.9, 2.0))) == set()


def test_said_once_in_a_while_shown_while_it_lasts_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    rows = rows_of(40, data_wait=[0.0] * 10 + [0.5] * 20 + [0.0] * 10)
    found, shown = Warnings(FACTS, said.append), []
    for end in range(1, len(rows) + 1):
        now[0] += 50
        shown.append(found.follow(rows[:end]))
    assert len(said) == 2  # 20 rows of 50 s are 1,000 s
    assert said[0].startswith("WARNING at step 130: workers wait for data 50 % of the time")
    # Of five rows three must wait, and it is shown for four rows after the rule last spoke.
    assert [i for i, text in enumerate(shown) if text] == list(range(12, 32 + module.HOLD - 1))
    assert found.to_json() == [
        {"name": "data_wait", "rows": 20, "first_step": 130, "last_step": 320, "text": said[0].partition(": ")[2]}
    ]


def test_a_run_that_goes_on_finds_the_same_and_says_nothing_again() -> None:
    rows = rows_of(60, data_wait=0.2)
    whole, said = Warnings(FACTS, lambda line: None), []
    whole.follow(rows)
    resumed = Warnings(FACTS, said.append)  # type: ignore[arg-type]
    resumed.follow(rows[:40], quiet=True)
    assert said == []
    resumed.follow(rows)
    assert resumed.to_json() == whole.to_json()
    assert set(RULES) >= {w["name"] for w in whole.to_json()}


def test_only_timed_rules_look_at_times() -> None:
    """The others are in the manifest's statistics, which are the same each time a stage is made."""
    rows = rows_of(rise=0.0)
    rows[150]["lm_loss"] = 40.0
    found = []
    for speed in (0.01, 0.9):
        warnings = Warnings(FACTS)
        warnings.follow([{**row, **dict.fromkeys(SPEED.names, speed), "step": row["step"]} for row in rows], quiet=True)
        found.append(warnings.to_json())
    slow = {warning["name"] for warning in found[1]} - {warning["name"] for warning in found[0]}
    assert slow == TIMED
    assert found[0] == [warning for warning in found[1] if warning["name"] not in TIMED] != []
