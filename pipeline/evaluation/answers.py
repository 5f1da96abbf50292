"""A student's answers and attention maps as tables: the shards of an evaluation, from which scores are computed."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.evaluation.questions import Question

# answers/part-*.parquet: one row per question that was asked
ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        ("answer", pa.string()),
        ("layers", pa.int32()),  # cross-attention layers L
        ("maps", pa.list_(pa.float32())),  # (L, S) attention of the question's tokens over the cells, row by row
        ("valid", pa.list_(pa.bool_())),  # (S,) cells with at least one image pixel
    ]
)

Answer = tuple[str, npt.NDArray[np.float32], npt.NDArray[np.bool_]]
"""The answer's text, the attention maps (L, S), and the valid cells (S,)."""


def answers_table(questions: list[Question], answers: list[Answer]) -> pa.Table:
    """The answers to some questions, in their order (ANSWERS)."""
    rows = [
        {"id": q.id, "answer": text, "layers": len(maps), "maps": maps.reshape(-1), "valid": valid}
        for q, (text, maps, valid) in zip(questions, answers, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=ANSWERS)


def read_answers(table: pa.Table) -> Iterator[tuple[str, Answer]]:
    """The question's id and the answer of each row of a table (ANSWERS)."""
    for row in table.to_pylist():
        maps = np.asarray(row["maps"], dtype=np.float32).reshape(row["layers"], -1)
        yield row["id"], (row["answer"], maps, np.asarray(row["valid"], dtype=bool))
