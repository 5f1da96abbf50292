"""report: one self-contained HTML page about a run, made from its artifacts. Imports no torch."""

from datetime import UTC, datetime
from pathlib import Path

from model.errors import ConfigError
from pipeline.artifacts.manifest import Counts
from pipeline.plan.fingerprints import TOKENIZER, Fingerprints
from pipeline.plan.parameters import ReportParams
from pipeline.plan.recipe import Weights
from pipeline.report.collect import collect
from pipeline.report.page import make_page
from pipeline.steps.context import Outcome, StepContext

PAGE = "report.html"


def run(context: StepContext) -> Outcome:
    """Write `report.html`. Its inputs are named '<kind>/<key of the step that made them>'."""
    params = context.params(ReportParams)
    total = len(context.inputs)
    context.progress.update(0, total)
    found = collect(params.recipe, params.variants, context.inputs)
    weights = _miniature_weights(Fingerprints(Path(context.locations.scratch)))
    page, statistics = make_page(found, context.job.ref.id, datetime.now(UTC), weights, context.job.command)
    context.staging.write_bytes(PAGE, page.encode("utf-8"))
    context.progress.update(total, total)
    return Outcome(Counts(unit=context.step.unit, rows_in=total, rows_out=total), statistics)


def _miniature_weights(fingerprints: Fingerprints) -> dict[str, str]:
    """Role -> checksum of the miniature weights that ship with this code; those that are missing are left out."""
    found = {}
    for role in Weights.model_fields:
        try:
            found[role] = fingerprints.weights(role, "miniature")
        except ConfigError:
            continue  # without the files, nothing in a run can be recognised as them
    if "text" in found:
        found[TOKENIZER] = fingerprints.tokenizer("miniature")
    return found
