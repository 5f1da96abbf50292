"""The bootstrap over images."""

import numpy as np
import pytest

from pipeline.evaluation.intervals import Clusters, Sums, ratio


def share(sums: Sums) -> Sums:
    return ratio(sums[..., 0], sums[..., 1])


def test_independent_questions_have_the_binomial_standard_error() -> None:
    hits = np.random.default_rng(0).random(400) < 0.3
    clusters = Clusters([str(i) for i in range(400)], np.stack([hits, np.ones(400)], axis=-1))
    estimate = clusters.estimate(share)
    assert estimate is not None
    p = hits.mean()
    assert estimate.value == pytest.approx(p)
    assert estimate.standard_error == pytest.approx(np.sqrt(p * (1 - p) / 400), rel=0.1)
    assert estimate.low == pytest.approx(p - 1.96 * estimate.standard_error, abs=0.01)
    assert estimate.n == 400


def test_questions_of_one_image_are_not_independent() -> None:
    """Ten copies of each answer do not make the interval narrower."""
    hits = (np.arange(40) % 4 == 0).astype(float)
    once = Clusters([str(i) for i in range(40)], np.stack([hits, np.ones(40)], axis=-1)).estimate(share)
    tenfold = Clusters(
        [str(i) for i in range(40) for _ in range(10)], np.stack([hits.repeat(10), np.ones(400)], axis=-1)
    ).estimate(share)
    assert once is not None
    assert tenfold is not None
    assert tenfold.standard_error == pytest.approx(once.standard_error, rel=1e-9)


def test_the_same_data_give_the_same_interval_and_undefined_scores_give_none() -> None:
    def made() -> Clusters:
        return Clusters(["a", "b", "c"], [[1, 1], [0, 1], [1, 1]])

    assert made().estimate(share) == made().estimate(share)
    assert Clusters(["a"], [[0, 0]]).estimate(share) is None
