"""`agevlm diff` of values and tables that are almost equal."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.cli.difference_view import as_json
from pipeline.artifacts.difference import SCHEMA, difference
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore

TABLE = pa.table({"a": [1], "b": ["x"]})


def publish(store: ArtifactStore, params: dict[str, Any], table: pa.Table = TABLE, value: str = "1.0") -> Artifact:
    spec = StepSpec(step="evaluate", revision=1, params=params, inputs={})
    staging = Staging(store, ArtifactRef(kind="evaluation", name="x", id=spec.id()), spec, 0, {})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    staging.write_bytes("part-00000-of-00001.parquet", sink.getvalue())
    scores = f'{{"scores": [{{"benchmark": "b", "metric": "m", "value": {value}}}]}}'
    staging.write_bytes("scores.json", scores.encode())
    return staging.publish(Counts(unit="question", rows_in=1, rows_out=1))


def changes(before: Artifact, after: Artifact) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = as_json(difference(before, after))["changes"]
    json.dumps(found, allow_nan=False)
    return found


def test_whatever_makes_another_id_is_said(store: ArtifactStore) -> None:
    one = publish(store, {"n": 1, "gone": None})
    parameters = changes(one, publish(store, {"n": True, "new": None}))["parameters"]
    assert parameters["n"] == {"before": 1, "after": True}
    assert parameters["gone"] == {"before": "null", "after": None}
    assert parameters["new"] == {"before": None, "after": "null"}
    floating = changes(one, publish(store, {"n": 1.0, "gone": None}))["parameters"]["n"]
    assert [type(value) for value in floating.values()] == [int, float]


def test_the_order_of_columns_and_columns_without_nulls_are_told(store: ArtifactStore) -> None:
    fields = [pa.field("b", pa.string(), nullable=False), pa.field("a", pa.int64())]
    other = pa.table([["x"], [1]], schema=pa.schema(fields))
    found = changes(publish(store, {"n": 1}), publish(store, {"n": 2}, other))[SCHEMA]
    assert found["b"] == {"before": "string", "after": "string not null"}
    assert found["(order)"] == {"before": "a, b", "after": "b, a"}
    assert "a" not in found


def test_a_score_that_is_no_number_is_equal_to_itself_and_valid_json(store: ArtifactStore) -> None:
    one, two = publish(store, {"n": 1}, value="NaN"), publish(store, {"n": 2}, value="NaN")
    assert "statistics and metrics" not in changes(one, two)
    scores = changes(one, publish(store, {"n": 3}, value="0.5"))["statistics and metrics"]
    assert scores["b.m.value"] == {"before": "nan", "after": 0.5}
