"""The memory model: held against the profiler, and against laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.stage_table import STAGES
from pipeline.plan.costs.activations import MicroBatch, Precision
from pipeline.plan.costs.memory import Sharing, memory
from pipeline.plan.costs.student import student_of
from pipeline.plan.recipe import load_recipe
from tests.bench.plan import MOST_MEMORY, memory_error, miniature

PAPER = student_of(load_recipe("paper"))


@pytest.mark.parametrize(
    ("row", "precision", "checkpointing"),
    [("stage1", "fp32", False), ("stage2", "bf16", False), ("stage4", "fp32", False), ("stage4", "bf16", True)],
)
def test_the_peak_is_that_of_the_profiler(row: str, precision: Precision, checkpointing: bool) -> None:
    error = memory_error(miniature()[0], row, precision, checkpointing, rows=8, length=83)
    assert abs(error) <= MOST_MEMORY


@given(
    row=st.sampled_from(sorted(STAGES)),
    precision=st.sampled_from(["fp32", "bf16", "bf16_parameters"]),
    rows=st.integers(1, 32),
    length=st.integers(16, 2048),
    sharing=st.builds(
        Sharing,
        workers=st.integers(1, 16),
        sharded=st.booleans(),
        checkpointing=st.booleans(),
        accumulates=st.booleans(),
        gpu=st.booleans(),
    ),
)
def test_parts_add_up_and_more_data_needs_more(
    row: str, precision: Precision, rows: int, length: int, sharing: Sharing
) -> None:
    stage = STAGES[row]
    found = memory(PAPER, stage, MicroBatch(rows, rows, length, rows * length // 2), precision, sharing)
    assert all((figure.value or 0) >= 0 for figure in found.parts)
    assert found.bytes >= (found.weights.value or 0) + (found.optimizer.value or 0)
    more = memory(PAPER, stage, MicroBatch(rows + 1, rows + 1, length, (rows + 1) * length // 2), precision, sharing)
    assert more.bytes > found.bytes


def test_what_is_divided_and_what_is_saved() -> None:
    batch = MicroBatch(16, 16, 512, 4096)
    plain = memory(PAPER, STAGES["stage4"], batch, "bf16", Sharing(workers=8, gpu=True))
    sharded = memory(PAPER, STAGES["stage4"], batch, "bf16", Sharing(workers=8, sharded=True, gpu=True))
    lean = memory(PAPER, STAGES["stage4"], batch, "bf16", Sharing(workers=8, checkpointing=True, gpu=True))
    assert (sharded.optimizer.value or 0) * 8 == pytest.approx(plain.optimizer.value)
    assert plain.optimizer.value == 8 * 1_682_671_808
    assert sharded.bytes < plain.bytes
    assert (lean.activations.value or 0) < (plain.activations.value or 0) / 2
    assert "1,682,671,808 parameters" in plain.weights.how
