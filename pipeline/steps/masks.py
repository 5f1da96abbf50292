"""masks: apply the gates to the evidence and publish the union of the accepted instances per query. Runs no model."""

import json
from collections import Counter
from typing import Any

import pyarrow as pa

from model.errors import AgevlmError, DataError
from pipeline.artifacts.manifest import Counts
from pipeline.masks.candidates import CandidateRows
from pipeline.masks.config import MaskGates
from pipeline.masks.gates import GATES, gate, rejected_alone
from pipeline.masks.parts import read_part, read_parts
from pipeline.masks.price import price_summary
from pipeline.masks.quality import TruthComparison
from pipeline.masks.statistics import EvidenceSummary, distribution, reason_name
from pipeline.plan.parameters import MasksParams
from pipeline.report.contact_sheet import ContactSheet
from pipeline.report.originals import ancestor, raw_images
from pipeline.schemas import CONTACT_SHEET, EVIDENCE, MASKS, PRICES_FILE, TRUTH, part_name
from pipeline.steps.context import Outcome, StepContext

Row = dict[str, Any]


def run(context: StepContext) -> Outcome:
    """Write a row of MASKS for every row of evidence, part by part; a contact sheet; and, with a truth, the prices.

    Raises DataError if there are no parts, or not as many rows as segment counted. Accepting no mask is not an error
    here, so that gates can be tried out; the stage that needs masks raises it.
    """
    gates = context.params(MasksParams).gates
    segments = context.input_path("segments")
    files = sorted(segments.glob("part-*.parquet"))
    if not files:
        raise DataError(f"{context.inputs['segments'].ref} has no parts; run segment again")
    total = context.inputs["segments"].manifest.counts.rows_in
    judged, done = Judged(_comparison(context), gates), 0
    # Part by part: of all parts together only rejects, figures and the chosen pictures are kept in memory.
    for index, file in enumerate(files):
        evidence = read_part(file, EVIDENCE).to_pylist()
        rows = [gate(row, gates) for row in evidence]
        context.staging.write_table(part_name(index, len(files)), pa.Table.from_pylist(rows, schema=MASKS))
        for row, source in zip(rows, evidence, strict=True):
            judged.add(row, source)
        done += len(rows)
        context.progress.update(done, total, accepted=judged.outcomes["ok"])
    if done != total:
        raise DataError(
            f"{context.inputs['segments'].ref} holds {done} rows, but its manifest counts {total}: its files were "
            "changed; 'agevlm verify' shows which"
        )
    context.staging.write_rejects(judged.rejects)
    prices = judged.prices()
    if prices is not None:
        content = json.dumps(prices, indent=1, sort_keys=True).encode("ascii")
        context.staging.write_bytes(PRICES_FILE, content)
    images = raw_images(context.inputs["segments"], context.images_of)
    context.staging.write_bytes(CONTACT_SHEET, judged.sheet.jpeg(context.job.ref.name, total, images))
    rejected = {name: number for name, number in sorted(judged.outcomes.items()) if name != "ok"}
    counts = Counts(unit=context.step.unit, rows_in=total, rows_out=judged.outcomes["ok"], rejected=rejected)
    return Outcome(counts, judged.statistics(total))


class Judged:
    """Collects what the manifest says of masks and their evidence.

    Args:
        comparison: with the ground truth, if the data set has one.
        gates: those that the masks passed.
    """

    def __init__(self, comparison: TruthComparison | None, gates: MaskGates) -> None:
        self._comparison, self._gates = comparison, gates
        self._candidates, self._evidence = CandidateRows(), EvidenceSummary()
        self._kinds: dict[str, Counter[str]] = {}
        self._alone: Counter[str] = Counter()
        self._figures: dict[str, list[float | None]] = {
            name: [] for name in ("area_fraction", "polygon_score", "sam_iou", "agreement_iou", "stability")
        }
        self.outcomes: Counter[str] = Counter()
        self.rejects: list[tuple[str, str, str]] = []
        self.sheet = ContactSheet()

    def add(self, row: Row, evidence: Row) -> None:
        """Add a row of MASKS and the row of EVIDENCE that it was made from."""
        outcome = _outcome(row)
        self.outcomes[outcome] += 1
        self._kinds.setdefault(row["query_kind"], Counter())[outcome] += 1
        self._evidence.add(evidence)
        self._alone.update(rejected_alone(evidence, self._gates))
        fact = iou = None
        if self._comparison is not None:
            fact, iou = self._comparison.fact(row), self._comparison.add(row)
            self._candidates.add(evidence, fact)
        self.sheet.add(row, evidence, None if fact is None else fact["rle"], iou)
        if row["status"] == "ok":
            for name, values in self._figures.items():
                values.append(row[name])
        else:
            key = f"{row['sample_id']}/{row['turn']}/{row['query_kind']}"
            self.rejects.append((key, outcome, row["reason"]))

    def prices(self) -> dict[str, Any] | None:
        """The table of gates and their precision; None without a truth."""
        return None if self._comparison is None else price_summary(self._candidates.candidates(), self._gates)

    def statistics(self, total: int) -> dict[str, Any]:
        """The statistics of the manifest.

        kinds: rows by outcome per kind of text; rejected_alone: rows that each gate would reject by itself; evidence:
        `EvidenceSummary`; then the distributions of the accepted masks' figures; truth: `TruthComparison`.
        """
        return {
            "accepted_share": round(self.outcomes["ok"] / total, 6) if total else None,
            "kinds": {kind: dict(sorted(counter.items())) for kind, counter in sorted(self._kinds.items())},
            "rejected_alone": {name: self._alone[name] for name in GATES},
            "evidence": self._evidence.summary(),
            **{"area" if n == "area_fraction" else n: distribution(values) for n, values in self._figures.items()},
            **({} if self._comparison is None else {"truth": self._comparison.summary()}),
        }


def _outcome(row: Row) -> str:
    """The name by which a row is counted: 'ok', 'no_region', the name of a gate or of an error."""
    return str(row["status"]) if row["status"] in ("ok", "no_region") else reason_name(row["reason"])


def _comparison(context: StepContext) -> TruthComparison | None:
    """The comparison with the inventory's ground truth; None if this data set has none."""
    try:
        inventory = ancestor(context.inputs["segments"], "inventory")
    except AgevlmError:
        return None
    if not inventory.matching("truth/"):
        return None
    return TruthComparison(read_parts(inventory.local(context.cache, "truth/"), TRUTH, "truth").to_pylist())
