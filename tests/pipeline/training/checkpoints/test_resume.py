"""A stage that is stopped anywhere and goes on ends with the same bits as one that nothing disturbed."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.pipeline.training.checkpoints.fixtures_interrupted import (
    EXECUTION,
    STEPS,
    Killed,
    Run,
    World,
    assert_same,
    go_on,
    shards_at,
)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(stage="stage1", interval=1, stops=[1])
@example(stage="stage3", interval=2, stops=[3])
@example(stage="stage4_lm", interval=2, stops=[5, 5])
@given(
    stage=st.sampled_from(["stage1", "stage3", "stage4_lm"]),
    interval=st.integers(1, STEPS),
    stops=st.lists(st.integers(1, STEPS), min_size=1, max_size=3).map(sorted),
)
def test_a_stopped_stage_ends_with_the_same_bits(world: World, stage: str, interval: int, stops: list[int]) -> None:
    execution = EXECUTION.model_copy(update={"checkpoint_steps": interval})
    with tempfile.TemporaryDirectory() as folder:
        shards = shards_at(Path(folder))
        for stop in stops:
            with pytest.raises(Killed):
                go_on(world.trainer(stage, execution), shards, Path(folder), stop)
        trainer = world.trainer(stage, execution)
        checkpoints = go_on(trainer, shards, Path(folder))
    assert_same(Run.of(trainer), world.reference(stage))
    first = (min(stops[0], STEPS - 1) // interval) * interval
    assert checkpoints.resumed_from or first == 0
