"""masks: apply the gates to the evidence and publish the union of the accepted instances per query. Runs no model."""

from collections import Counter
from typing import Any

import pyarrow as pa

from model.errors import DataError
from pipeline.artifacts.manifest import Counts
from pipeline.masks.gates import gate
from pipeline.masks.parts import read_part, read_parts
from pipeline.masks.quality import TruthComparison
from pipeline.masks.statistics import distribution, reason_name
from pipeline.plan.parameters import MasksParams
from pipeline.schemas import EVIDENCE, MASKS, TRUTH, part_name
from pipeline.steps.context import Outcome, StepContext


def run(context: StepContext) -> Outcome:
    """Write a row of MASKS for every row of evidence, part by part.

    Raises DataError if there are no parts, or not as many rows as segment counted. Accepting no mask is not an error
    here, so that gates can be tried out; the stage that needs masks raises it.
    """
    gates = context.params(MasksParams).gates
    segments = context.input_path("segments")
    files = sorted(segments.glob("part-*.parquet"))
    if not files:
        raise DataError(f"{context.inputs['segments'].ref} has no parts; run segment again")
    total = context.inputs["segments"].manifest.counts.rows_in
    outcomes: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    rejects: list[tuple[str, str, str]] = []
    shares, done = [], 0
    scores: dict[str, list[float | None]] = {"polygon_score": [], "sam_iou": [], "agreement_iou": []}
    comparison = _comparison(context)
    # Part by part: of all parts together only rejects and scores are kept in memory.
    for index, file in enumerate(files):
        rows = [gate(row, gates) for row in read_part(file, EVIDENCE).to_pylist()]
        context.staging.write_table(part_name(index, len(files)), pa.Table.from_pylist(rows, schema=MASKS))
        for row in rows:
            if comparison is not None:
                comparison.add(row)
            outcome = _outcome(row)
            outcomes[outcome] += 1
            kinds.setdefault(row["query_kind"], Counter())[outcome] += 1
            if row["status"] == "accepted":
                shares.append(row["area"] / (row["height"] * row["width"]))
                for name, values in scores.items():
                    values.append(row[name])
            else:
                key = f"{row['sample_id']}/{row['turn']}/{row['query_kind']}"
                rejects.append((key, outcome, row["reason"]))
        done += len(rows)
        context.progress.update(done, total, accepted=outcomes["accepted"])
    if done != total:
        raise DataError(
            f"{context.inputs['segments'].ref} holds {done} rows, but its manifest counts {total}: its files were "
            "changed; 'agevlm verify' shows which"
        )
    context.staging.write_rejects(rejects)
    accepted = outcomes.pop("accepted", 0)
    statistics: dict[str, Any] = {
        "accepted_share": round(accepted / total, 6) if total else None,
        "kinds": {kind: dict(sorted(counter.items())) for kind, counter in sorted(kinds.items())},
        "area": distribution(shares),
        **{name: distribution(values) for name, values in scores.items()},
    }
    if comparison is not None:
        statistics["truth"] = comparison.summary()
    counts = Counts(unit=context.step.unit, rows_in=total, rows_out=accepted, rejected=dict(sorted(outcomes.items())))
    return Outcome(counts, statistics)


def _outcome(row: dict[str, Any]) -> str:
    """The name by which a row is counted: 'accepted', 'no_region', the name of a gate or of an error."""
    if row["status"] == "rejected":
        return reason_name(row["reason"])
    return str(row["status"])


def _comparison(context: StepContext) -> TruthComparison | None:
    """The comparison with the inventory's ground truth; None if this data set has none."""
    parent = context.inputs["segments"].manifest.parents.get("inventory")
    inventory = None if parent is None else context.store.get(parent.ref)
    if inventory is None or not inventory.matching("truth/"):
        return None
    return TruthComparison(read_parts(inventory.local(context.cache, "truth/"), TRUTH, "truth").to_pylist())
