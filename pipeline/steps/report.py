"""report: one self-contained HTML page about a run, made from its artifacts. Imports no torch."""

from datetime import UTC, datetime
from pathlib import Path

from model.errors import ConfigError
from pipeline.artifacts.manifest import Counts
from pipeline.fingerprints import Fingerprints
from pipeline.report.build import build
from pipeline.report.collect import collect
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.params import ReportParams

PAGE = "report.html"


def run(context: StepContext) -> Outcome:
    """Write `report.html`. Its inputs are named '<kind>/<key of the step that made them>'."""
    params = context.params(ReportParams)
    total = len(context.inputs)
    context.progress.update(0, total)
    found = collect(params.recipe, params.variants, context.inputs)
    page, statistics = build(found, context.job.ref.id, datetime.now(UTC), _miniature_weights(context))
    context.staging.write_bytes(PAGE, page.encode("utf-8"))
    context.progress.update(total, total)
    return Outcome(Counts(unit=context.step.unit, rows_in=total, rows_out=total), statistics)


def _miniature_weights(context: StepContext) -> dict[str, str]:
    """Checksums of the miniature weights that ship with this code; those that are missing are left out."""
    fingerprints = Fingerprints(Path(context.site.scratch) / "fingerprints")
    found = {}
    for role in ("florence", "sam", "text", "vision"):
        try:
            found[role] = fingerprints.weights(role, "miniature")
        except ConfigError:
            continue  # without them nothing can be said to be them
    return found
