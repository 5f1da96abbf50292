"""Resources of a step: one pool of workers, or two."""

import pytest
from pydantic import ValidationError

from pipeline.compute.resources import Pool, Resources


def test_two_pools_are_counted_together() -> None:
    both = Resources(cpus=2, gpus=0.25, workers=4, second_pool=Pool(cpus=1, gpus=0.5, workers=2))
    assert (both.all_cpus, both.all_gpus, both.gpus_of_one) == (10, 2, 0.75)
    assert str(both) == "4 x 2 CPU + 0.25 GPU and 2 x 1 CPU + 0.5 GPU"


def test_one_pool_is_written_and_counted_as_before() -> None:
    one = Resources(cpus=2, gpus=1, workers=8)
    assert (one.all_cpus, one.all_gpus, one.gpus_of_one) == (16, 8, 1)
    assert str(one) == "8 x 2 CPU + 1 GPU"
    assert "second_pool" not in one.model_dump(mode="json"), "jobs that are written already stay the same"


def test_one_pool_on_gpus_and_one_on_cpus_is_refused() -> None:
    with pytest.raises(ValidationError, match="give GPUs to both pools, or to none"):
        Resources(gpus=1, second_pool=Pool())
