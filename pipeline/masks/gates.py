"""Gates: accept or reject masks for training. A pure function of one row of evidence; no model, no torch.

In order: the end of the query's answer, its polygon score, each instance's predicted IoU, agreement and stability, the
union's area. A row that loses its last instance at a gate is of low quality, and its reason is that gate's name in the
recipe: the setting to change. A figure that a teacher does not have (null) passes its gate.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from model.teachers import rle
from pipeline.masks.config import MaskGates
from pipeline.schemas import MASKS

Row = Mapping[str, Any]
PER_INSTANCE = {"min_sam_iou": "sam_iou", "min_agreement_iou": "agreement_iou", "min_stability": "stability"}
"""Gate -> the column of an instance that it limits."""
GATES = ("require_ended", "min_polygon_score", *PER_INSTANCE, "min_area", "max_area")
QUERY_COLUMNS = tuple(name for name in MASKS.names[: MASKS.names.index("status")])


def gate(evidence: Row, gates: MaskGates) -> dict[str, Any]:
    """A row of MASKS for a row of EVIDENCE: with the union of the instances that passed, or with a reason."""
    instances: list[Row] = list(evidence["instances"] or [])
    row = {
        **{name: evidence[name] for name in QUERY_COLUMNS},
        "status": "low_quality",
        "reason": "",
        "rle": None,
        "area": None,
        "area_fraction": None,
        "polygon_score": evidence["polygon_score"],
        "ended": evidence["ended"],
        **{column: _least(instances, column) for column in PER_INSTANCE.values()},
        "teacher": evidence["teacher"],
    }
    if evidence["status"] == "error":
        return {**row, "status": "error", "reason": evidence["reason"]}
    if not instances:
        return {**row, "status": "no_region", "reason": evidence["reason"]}
    if gates.require_ended and evidence["ended"] is False:
        return {**row, "reason": "require_ended"}
    if _below(evidence["polygon_score"], gates.min_polygon_score):
        return {**row, "reason": "min_polygon_score"}
    kept = instances
    for name, column in PER_INSTANCE.items():
        kept = [instance for instance in kept if not _below(instance[column], getattr(gates, name))]
        if not kept:
            return {**row, "reason": name}
    height, width = evidence["height"], evidence["width"]
    counts = rle.union([instance["rle"] for instance in kept], height, width)
    area = rle.area(counts, height, width)
    share = area / (height * width)
    row |= {column: _least(kept, column) for column in PER_INSTANCE.values()}
    # An empty mask cannot guide attention, so it is rejected even with min_area = 0.
    if share < gates.min_area or area == 0:
        return {**row, "reason": "min_area"}
    if share > gates.max_area:
        return {**row, "reason": "max_area"}
    return {**row, "status": "ok", "rle": counts, "area": area, "area_fraction": share}


def rejected_alone(evidence: Row, gates: MaskGates) -> list[str]:
    """The gates that would reject a row of EVIDENCE if each were the only one. Empty for a row without a region.

    A row is counted once at most in the drop reasons, by the first gate that rejects it. This tells what each setting
    costs by itself.
    """
    instances: list[Row] = list(evidence["instances"] or [])
    if evidence["status"] == "error" or not instances:
        return []
    found = []
    if gates.require_ended and evidence["ended"] is False:
        found.append("require_ended")
    if _below(evidence["polygon_score"], gates.min_polygon_score):
        found.append("min_polygon_score")
    for name, column in PER_INSTANCE.items():
        if all(_below(instance[column], getattr(gates, name)) for instance in instances):
            found.append(name)
    height, width = evidence["height"], evidence["width"]
    counts = [instance["rle"] for instance in instances]
    area = rle.area(counts[0] if len(counts) == 1 else rle.union(counts, height, width), height, width)
    share = area / (height * width)
    if share < gates.min_area or area == 0:
        found.append("min_area")
    if share > gates.max_area:
        found.append("max_area")
    return found


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _least(instances: Iterable[Row], column: str) -> float | None:
    return min((instance[column] for instance in instances if instance[column] is not None), default=None)
