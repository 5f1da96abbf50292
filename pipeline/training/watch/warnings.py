"""Warnings of a stage: rules over its rows of metrics, one row of a table each.

A rule sees the rows so far and returns a sentence, or None. So the warnings of a stage are a function of its rows, and
a run that goes on after a kill finds the same ones. A rule says nothing before it has enough rows.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""A row of metrics: the columns of METRICS and SPEED."""

HOLD = 5
"""Rows for which a warning is shown after its rule last spoke."""
SAY_SECONDS = 600.0
"""Between two lines of the log about the same rule."""

DATA_WAIT, WAIT_ROWS = 0.05, 5
SPIKE_ROWS, SPIKE_FEWEST, SPIKE_DEVIATIONS, SPIKE_SHARE = 50, 20, 8.0, 0.3
FLAT_ROWS, FLAT_GUIDED, FLAT_START, FLAT_ABOVE, FLAT_ERRORS = 30, 300, 0.1, 1.1, 2.0
UNGUIDED_SAMPLES = 1000
HELD_OUT_FEWEST, HELD_OUT_RISE = 3, 0.02


@dataclass(frozen=True)
class StageFacts:
    """Facts of a stage for the rules: the number of steps, and if it has the guidance loss."""

    steps: int
    guidance: bool


Check = Callable[[Sequence[Row], StageFacts], str | None]


def data_wait(rows: Sequence[Row], facts: StageFacts) -> str | None:
    """The median share of waiting over 5 rows is above 5 %. The first row does not count: it waits for the first batch.

    The median, because the first row after a resume waits too.
    """
    recent = [row["data_wait"] for row in rows[1:][-WAIT_ROWS:]]
    if len(recent) < WAIT_ROWS or (wait := statistics.median(recent)) <= DATA_WAIT:
        return None
    return f"workers wait for data {100 * wait:.0f} % of the time; give each more CPUs, or more loader_processes"


def loss_spike(rows: Sequence[Row], facts: StageFacts) -> str | None:
    """The loss is above the median of the 50 rows before by 8 deviations (MAD) and by 30 % of the median."""
    before = [row["lm_loss"] for row in rows[-SPIKE_ROWS - 1 : -1]]
    if len(before) < SPIKE_FEWEST:
        return None
    usual, loss = statistics.median(before), rows[-1]["lm_loss"]
    deviation = 1.4826 * statistics.median(abs(value - usual) for value in before)  # of normal noise, as robust
    if loss <= usual + max(SPIKE_DEVIATIONS * deviation, SPIKE_SHARE * abs(usual)):
        return None
    return f"loss spike: {loss:.4g} at step {rows[-1]['step']}, {usual:.4g} before (median of {len(before)} rows)"


def guidance_without_effect(rows: Sequence[Row], facts: StageFacts) -> str | None:
    """Attention in the mask is what even attention would give, and does not rise.

    Compared are the first and the last 30 rows with guided rows, after a tenth of the stage, when the learning rate is
    up. The rule speaks if the last ones are less than 1.1 times `even_in_mask`, and above the first ones by less than 2
    standard errors. Both groups need 300 guided rows, so that an effect that matters would be seen.
    """
    if not facts.guidance:
        return None

    def seen(order: Sequence[Row]) -> list[Row]:
        found: list[Row] = []
        for row in order:
            if row["step"] > FLAT_START * facts.steps and row["guided_rows"]:
                found.append(row)
                if len(found) == FLAT_ROWS:
                    break
        return found

    first, last = seen(rows), seen(rows[::-1])
    enough = all(sum(row["guided_rows"] for row in group) >= FLAT_GUIDED for group in (first, last))
    if len(first) < FLAT_ROWS or first[-1]["step"] >= last[-1]["step"] or not enough:
        return None
    (start, start_error), (end, end_error) = _mean_mass(first), _mean_mass(last)
    even = sum(row["even_in_mask"] * row["guided_rows"] for row in last) / sum(row["guided_rows"] for row in last)
    if end >= FLAT_ABOVE * even or end - start >= FLAT_ERRORS * math.hypot(start_error, end_error):
        return None
    return (
        f"guidance has no effect: {100 * end:.1f} % of the attention is in the masks, even attention would put "
        f"{100 * even:.1f} % there; run 'agevlm check-alignment', and look at guidance_weight and learning_rate"
    )


def _mean_mass(rows: Sequence[Row]) -> tuple[float, float]:
    """Mean over guided rows and layers of the attention in the mask, and its standard error between rows of metrics."""
    weights = [row["guided_rows"] for row in rows]
    values = [statistics.fmean(row["attention_in_mask"]) for row in rows]
    total = sum(weights)
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / total
    variance = sum((w * (v - mean)) ** 2 for w, v in zip(weights, values, strict=True)) / total**2
    return mean, math.sqrt(variance * len(rows) / (len(rows) - 1))


def no_guided_rows(rows: Sequence[Row], facts: StageFacts) -> str | None:
    """No guided row among the last 1,000 samples of a guided stage. At 3 % guided rows, 30 are expected."""
    if not facts.guidance or rows[-1]["guided_rows"]:
        return None
    since = next((row["samples"] for row in reversed(rows) if row["guided_rows"]), 0)
    without = rows[-1]["samples"] - since
    if without < UNGUIDED_SAMPLES:
        return None
    return f"no guided row among the last {without} samples; look at the stage's masks in the report"


def held_out_rises(rows: Sequence[Row], facts: StageFacts) -> str | None:
    """The last two held-out losses are 2 % above the smallest one, while the training loss fell since then."""
    measured = [(i, row["held_out_loss"]) for i, row in enumerate(rows) if row.get("held_out_loss") is not None]
    if len(measured) < HELD_OUT_FEWEST or measured[-1][0] != len(rows) - 1:
        return None
    at, smallest = min(measured, key=lambda pair: pair[1])
    if any(value <= (1 + HELD_OUT_RISE) * smallest for _, value in measured[-2:]):
        return None
    then = statistics.median(row["lm_loss"] for row in rows[max(0, at - WAIT_ROWS + 1) : at + 1])
    now = statistics.median(row["lm_loss"] for row in rows[-WAIT_ROWS:])
    if now >= then:
        return None
    return (
        f"the held-out loss rises while the training loss falls: {measured[-1][1]:.4g}, {smallest:.4g} at step "
        f"{rows[at]['step']}; train on fewer epochs or more data"
    )


def held_out_not_finite(rows: Sequence[Row], facts: StageFacts) -> str | None:
    """The last held-out loss is NaN or infinite. The weights are finite: training itself would have stopped."""
    loss = rows[-1].get("held_out_loss")
    if loss is None or math.isfinite(loss):
        return None
    return f"the held-out loss is {loss} at step {rows[-1]['step']}; a held-out sample is damaged, or overflows"


RULES: dict[str, Check] = {
    "held_out_not_finite": held_out_not_finite,
    "guidance_without_effect": guidance_without_effect,
    "no_guided_rows": no_guided_rows,
    "loss_spike": loss_spike,
    "held_out_rises": held_out_rises,
    "data_wait": data_wait,
}
"""Every rule by its name; the most serious first."""
TIMED = frozenset({"data_wait"})
"""Rules that look at times. Their warnings differ each time a stage is made, so they are not part of its content."""


@dataclass
class Found:
    """The warnings of one rule in a stage."""

    rows: int
    """Rows of metrics at which the rule spoke."""
    first_step: int
    last_step: int
    text: str
    """Its latest sentence."""


class Warnings:
    """Follows a stage's rows. say: prints a line to the job's log."""

    def __init__(self, facts: StageFacts, say: Callable[[str], None] = print) -> None:
        self._facts, self._say = facts, say
        self._said: dict[str, float] = {}
        self._last: dict[str, int] = {}
        self._seen = 0
        self.found: dict[str, Found] = {}

    def follow(self, rows: Sequence[Row], quiet: bool = False) -> str:
        """Look at all rows that were added since the last call. Returns what to show now: '' or the first warning."""
        for end in range(self._seen + 1, len(rows) + 1):
            so_far = rows[:end] if end < len(rows) else rows
            for name, check in RULES.items():
                text = check(so_far, self._facts)
                if text is not None:
                    self._note(name, text, int(rows[end - 1]["step"]), end, quiet)
        self._seen = len(rows)
        return next((self.found[n].text for n in RULES if n in self._last and len(rows) - self._last[n] < HOLD), "")

    def _note(self, name: str, text: str, step: int, row: int, quiet: bool) -> None:
        known = self.found.get(name)
        self.found[name] = Found(1 + (known.rows if known else 0), known.first_step if known else step, step, text)
        self._last[name] = row
        now = time.monotonic()
        if not quiet and now - self._said.get(name, float("-inf")) >= SAY_SECONDS:
            self._said[name] = now
            self._say(f"WARNING at step {step}: {text}")

    def to_json(self) -> list[dict[str, Any]]:
        """All warnings so far, in the order of RULES."""
        return [{"name": name, **vars(self.found[name])} for name in RULES if name in self.found]
