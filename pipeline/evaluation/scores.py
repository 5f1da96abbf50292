"""The result of a benchmark: scores with their uncertainty, and a table with one row per scored question."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from pipeline.evaluation.intervals import Estimate
from pipeline.evaluation.questions import Prediction


@dataclass(frozen=True)
class Score:
    """One number of a benchmark. `chance` is the score of a model that does not look at the image, if known."""

    benchmark: str
    metric: str
    title: str
    estimate: Estimate
    chance: float | None = None
    chance_name: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a row of scores.json."""
        return {
            "benchmark": self.benchmark,
            "metric": self.metric,
            "title": self.title,
            "value": self.estimate.value,
            "standard_error": self.estimate.standard_error,
            "low": self.estimate.low,
            "high": self.estimate.high,
            "n": self.estimate.n,
            "chance": self.chance,
            "chance_name": self.chance_name,
        }


@dataclass(frozen=True)
class Result:
    """The result of a benchmark. `scored`: ids of the questions that it scored; `details`: further counts."""

    scores: list[Score]
    scored: frozenset[str]
    table: pa.Table
    details: dict[str, Any] = field(default_factory=dict)


class Benchmark(Protocol):
    """A benchmark: it scores predictions. `table_file`: file of its table in the artifact."""

    name: str
    table_file: str

    def score(self, predictions: Sequence[Prediction]) -> Result:
        """Score the predictions that this benchmark applies to; the result names them."""
        ...


def present(scores: Sequence[Score | None]) -> list[Score]:
    """The scores that are defined."""
    return [score for score in scores if score is not None]
