"""Confidence intervals: a bootstrap over images, because questions about one image are not independent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
SEED = 20260101
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A score with its standard error and 95 % interval (percentiles of the bootstrap)."""

    value: float
    standard_error: float
    low: float
    high: float
    n: int


class Clusters:
    """Sums of quantities per image, resampled over images to estimate any function of their totals.

    Args:
        images: the image of each question.
        quantities: (questions, quantities), the numbers to be summed.
    """

    def __init__(self, images: Sequence[str], quantities: npt.ArrayLike) -> None:
        values = np.asarray(quantities, dtype=np.float64)
        values = values.reshape(len(images), -1)
        names, owner = np.unique(np.asarray(images, dtype=str), return_inverse=True)
        per_image = np.zeros((len(names), values.shape[1]))
        np.add.at(per_image, owner, values)
        self._total = per_image.sum(0)
        self._n = len(images)
        rng = np.random.default_rng(SEED)
        draws = rng.multinomial(len(names), np.full(len(names), 1 / max(1, len(names))), size=RESAMPLES)
        self._resampled = draws @ per_image

    def estimate(self, metric: Callable[[Sums], Sums], n: int | None = None) -> Estimate | None:
        """A metric of the totals. `metric` takes (..., quantities) and gives (...), NaN where it is undefined.

        None if the metric is undefined on all questions together. `n`: number of questions that it counts, if not all.
        """
        value = float(metric(self._total))
        if not np.isfinite(value):
            return None
        spread = metric(self._resampled)
        spread = spread[np.isfinite(spread)]
        low, high = np.percentile(spread, [2.5, 97.5]) if len(spread) else (value, value)
        return Estimate(
            value=value,
            standard_error=float(spread.std(ddof=1)) if len(spread) > 1 else 0.0,
            low=float(low),
            high=float(high),
            n=self._n if n is None else n,
        )


def ratio(numerator: Sums, denominator: Sums) -> Sums:
    """Element-wise ratio; NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
