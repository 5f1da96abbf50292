"""Everything that shows a stage while it trains: progress, warnings and trackers. Only worker 0 has it."""

from collections.abc import Sequence
from typing import Any, Self

from pipeline.artifacts.progress import Progress
from pipeline.training.watch.trackers import Row, Stage, Tracker, open_trackers, scalars
from pipeline.training.watch.warnings import StageFacts, Warnings


class StageWatch:
    """Shows the steps and rows of a stage as they come.

    Args:
        samples: of the whole stage.
        layers: names of the cross-attention layers.
        trackers: names in `TRACKERS`.
    """

    def __init__(
        self,
        stage: Stage,
        facts: StageFacts,
        progress: Progress,
        samples: int,
        layers: Sequence[str],
        trackers: Sequence[str],
    ) -> None:
        self._progress, self._samples, self._layers = progress, samples, layers
        self._rows: list[Row] = list(stage.rows)
        self._values: dict[str, float] = {}
        self._warnings = Warnings(facts, say=lambda line: print(line, flush=True))
        self._trackers: list[Tracker] = open_trackers(trackers, stage)
        for row in self._rows:  # of an earlier run of the stage
            self._track(row)
        self._warnings.follow(self._rows, quiet=True)

    def step(self, samples: int, row: Row | None) -> None:
        """Show that `samples` were seen, with the row of metrics if one was due."""
        if row is not None:
            self._rows.append(row)
            self._track(row)
            self._progress.note = self._warnings.follow(self._rows)
            self._values = shown(row)
        self._progress.update(samples, self._samples, **self._values)

    def _track(self, row: Row) -> None:
        values = scalars(row, self._layers)
        for tracker in list(self._trackers):
            try:
                tracker.log(int(row["step"]), values)
            except Exception as error:  # of many types; a lost server of curves must not end the training
                self._trackers.remove(tracker)
                _say(tracker, "gets no more metrics of this run", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:  # as above; it would also hide the error that ends the training
                _say(tracker, "may lack the last metrics of this run", error)


def _say(tracker: Tracker, what: str, error: Exception) -> None:
    print(f"{type(tracker).__name__} {what}: {type(error).__name__}: {error}", flush=True)


def shown(row: Row) -> dict[str, float]:
    """The values of a row that the progress shows."""
    mass: Any = row["attention_in_mask"]
    values = {
        "loss": row["lm_loss"],
        "guidance": row["guidance_loss"],
        "in_mask": None if mass is None else sum(mass) / len(mass),
        "held_out": row.get("held_out_loss"),
        "tokens/s": row["tokens_per_second"],
    }
    return {name: float(value) for name, value in values.items() if value is not None}
