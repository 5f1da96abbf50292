"""The benchmark `attention`: attention of the question's tokens inside the true mask, per cross-attention layer.

Only questions about an object that is in the image and whose mask is known count (table 4 and appendix E of the paper
show such maps; this measures them). Attention is that of eq. 3: mean over heads and over the question's text tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.evaluation.intervals import Clusters, ratio
from pipeline.evaluation.questions import Prediction
from pipeline.evaluation.scores import Result, Score, present

ATTENTION = pa.schema(
    [
        ("id", pa.string()),
        ("sample_id", pa.string()),
        ("turn", pa.int32()),
        ("image", pa.string()),
        ("layer", pa.int32()),  # cross-attention layers, counted from 0
        ("mass", pa.float64()),  # attention inside the mask
        ("chance", pa.float64()),  # the mask's share of the cells with image pixels: uniform attention's mass
        ("pointing", pa.bool_()),  # True if the most attended cell is inside the mask
        ("padding", pa.float64()),  # attention on cells without any image pixel
        ("mask_cells", pa.int32()),
        ("valid_cells", pa.int32()),
    ]
)


class AttentionInMask:
    """Mass inside the mask, pointing, and mass on padding: means over the layers, and values per layer."""

    name = "attention"
    table_file = "attention.parquet"

    def score(self, predictions: Sequence[Prediction]) -> Result:
        """Score the questions whose object is in the image and whose mask is known."""
        judged = [p for p in predictions if p.attention.truth is not None]
        rows = [row for p in judged for row in _rows(p)]
        details: dict[str, Any] = {"questions_with_truth": len(judged)}
        scores: list[Score] = []
        if judged:
            scores, details["per_layer"] = self._scores(judged, rows)
        return Result(
            scores=scores,
            scored=frozenset(p.question.id for p in judged),
            table=pa.Table.from_pylist(rows, schema=ATTENTION),
            details=details,
        )

    def _scores(self, judged: list[Prediction], rows: list[dict[str, Any]]) -> tuple[list[Score], dict[str, Any]]:
        """Scores as means over the layers, and values per layer: metric -> list over layers."""
        layers = len(judged[0].attention.maps)
        images = [p.question.image_sha256 for p in judged]
        per_layer: dict[str, Any] = {}
        scores: list[Score | None] = []
        chance = float(np.mean([row["chance"] for row in rows]))
        for metric, title, column, by_chance, chance_name in (
            ("in_mask", "attention inside the object", "mass", chance, "uniform attention"),
            ("pointing", "most attended cell inside the object", "pointing", chance, "random cell"),
            ("on_padding", "attention on padding", "padding", None, ""),
        ):
            values = np.array([float(row[column]) for row in rows]).reshape(len(judged), layers)
            per_layer[metric] = values.mean(0).tolist()
            sums = np.stack([values.mean(1), np.ones(len(judged))], axis=-1)
            estimate = Clusters(images, sums).estimate(lambda s: ratio(s[..., 0], s[..., 1]))
            if estimate is not None:
                scores.append(Score(self.name, metric, title, estimate, by_chance, chance_name))
        return present(scores), per_layer


def _rows(prediction: Prediction) -> list[dict[str, Any]]:
    attention, question = prediction.attention, prediction.question
    assert attention.truth is not None
    inside = attention.truth & attention.valid
    rows: list[dict[str, Any]] = []
    for layer, share in enumerate(attention.maps.astype(np.float64)):
        rows.append(
            {
                "id": question.id,
                "sample_id": question.sample_id,
                "turn": question.turn,
                "image": question.image_sha256,
                "layer": layer,
                "mass": float(share[inside].sum()),
                "chance": float(inside.sum() / max(1, attention.valid.sum())),
                "pointing": bool(inside[int(share.argmax())]),
                "padding": float(share[~attention.valid].sum()),
                "mask_cells": int(inside.sum()),
                "valid_cells": int(attention.valid.sum()),
            }
        )
    return rows
