"""Gates: accept or reject masks for training. A pure function of one row of evidence; no model, no torch.

In order: the query's polygon score, each instance's predicted IoU, each instance's agreement, the union's area. A row
that loses its last instance at a gate is rejected with that gate's name in the recipe, so the reason names the setting
to change.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from model.teachers import rle
from pipeline.masks.config import MaskGates
from pipeline.schemas import MASKS

Row = Mapping[str, Any]
GATES = ("min_polygon_score", "min_sam_iou", "min_agreement_iou", "min_area", "max_area")
QUERY_COLUMNS = tuple(name for name in MASKS.names[: MASKS.names.index("status")])


def gate(evidence: Row, gates: MaskGates) -> dict[str, Any]:
    """A row of MASKS for a row of EVIDENCE: accepted with the union of the instances that passed, or with a reason."""
    instances: list[Row] = list(evidence["instances"] or [])
    row = {
        **{name: evidence[name] for name in QUERY_COLUMNS},
        "status": "rejected",
        "reason": "",
        "rle": None,
        "area": None,
        "polygon_score": evidence["polygon_score"],
        "sam_iou": _least(instances, "sam_iou"),
        "agreement_iou": _least(instances, "agreement_iou"),
        "teacher": evidence["teacher"],
    }
    if evidence["status"] == "error":
        return {**row, "reason": evidence["reason"]}
    if not instances:
        return {**row, "status": "no_region"}
    if evidence["polygon_score"] < gates.min_polygon_score:
        return {**row, "reason": "min_polygon_score"}
    kept = instances
    for name, column, limit in (
        ("min_sam_iou", "sam_iou", gates.min_sam_iou),
        ("min_agreement_iou", "agreement_iou", gates.min_agreement_iou),
    ):
        kept = [instance for instance in kept if instance[column] >= limit]
        if not kept:
            return {**row, "reason": name}
    height, width = evidence["height"], evidence["width"]
    counts = rle.union([instance["rle"] for instance in kept], height, width)
    area = rle.area(counts, height, width)
    share = area / (height * width)
    row |= {"sam_iou": _least(kept, "sam_iou"), "agreement_iou": _least(kept, "agreement_iou")}
    # An empty mask cannot guide attention, so it is rejected even with min_area = 0.
    if share < gates.min_area or area == 0:
        return {**row, "reason": "min_area"}
    if share > gates.max_area:
        return {**row, "reason": "max_area"}
    return {**row, "status": "accepted", "rle": counts, "area": area}


def _least(instances: Iterable[Row], column: str) -> float | None:
    return min((instance[column] for instance in instances), default=None)
