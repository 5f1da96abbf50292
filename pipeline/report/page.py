"""The page: every section made from the run, put into the template. No element of it loads anything from elsewhere."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.artifacts import manifest
from pipeline.artifacts.spec import short
from pipeline.plan.recipe import Weights
from pipeline.report.collect import Run, variant_name
from pipeline.report.evaluation import evaluation_section
from pipeline.report.findings import findings, limits, title, totals
from pipeline.report.formatting import clip, count, duration, moment, plural, reasons_text, score, share, size
from pipeline.report.masks import half_or_better, mask_sections
from pipeline.report.overlap import dataset_rows, overlap_words
from pipeline.report.reproduce import reproduction
from pipeline.report.step_graph import graph, legend
from pipeline.report.training import chart_groups, stage_curves

FOLDER = Path(__file__).resolve().parent
TEMPLATE, STYLE = "page.html.jinja", "page.css"
FORMATS = (clip, count, duration, moment, plural, reasons_text, score, share, size)


def make_page(
    run: Run,
    report_id: str,
    made: datetime,
    miniature_weights: Mapping[str, str],
    command: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, Any]]:
    """The page's HTML and its headline numbers.

    miniature_weights: role -> checksum of the weights that ship with the project, to say plainly when these were used.
    command: how the run was started (`JobSpec.command`); None for a step that was run by hand.
    """
    masks, stages, evaluation = mask_sections(run, miniature_weights), stage_curves(run), evaluation_section(run)
    used = {str(view.params.get(role)) for view in run.steps for role in Weights.model_fields}
    miniature = [role for role, checksum in miniature_weights.items() if checksum in used]
    found, tiles = findings(masks, stages, evaluation), totals(run, masks, stages)
    environment = Environment(  # escapes every value unless it is Markup; a name that the template lacks is an error
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (*FORMATS, half_or_better, overlap_words, short)
    environment.filters.update({f.__name__: f for f in filters}, units=manifest.plural)
    page = environment.get_template(TEMPLATE).render(
        style=Markup((FOLDER / STYLE).read_text(encoding="utf-8")),  # our own file: nothing to escape
        run=run,
        made=made,
        report_id=report_id,
        title=title(run, evaluation),
        totals=tiles,
        findings=found,
        variants=[(v, variant_name(v)) for v in run.variants],
        graph=graph(run, report_id),
        legend=legend(run),
        longest=max((v.manifest.provenance.seconds for v in run.steps), default=0) or 1,
        datasets=dataset_rows(run),
        masks=masks,
        stages=stages,
        charts=chart_groups(stages),
        evaluation=evaluation,
        limits=limits(run, masks, evaluation, miniature),
        reproduction=reproduction(run, command, report_id, miniature_weights),
    )
    overlap = evaluation.overlap if evaluation else None
    statistics = {
        "findings": found,
        "evaluation_images": None if overlap is None else {"all": overlap.images, "trained_on": overlap.trained_on},
        "tiles": tiles,
        "trouble": list(run.trouble),
        "bytes": len(page.encode("utf-8")),
    }
    return page, statistics
