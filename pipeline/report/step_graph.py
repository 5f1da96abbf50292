"""The section on steps: the run as a graph, its boxes coloured by the group that the step table names."""

from markupsafe import Markup

from pipeline.artifacts import manifest
from pipeline.artifacts.spec import short
from pipeline.plan.step_table import STEPS
from pipeline.report.charts.graph import Box, draw
from pipeline.report.collect import Run, StepView, variant_name
from pipeline.report.formatting import plural, short_count, short_duration

OTHER, PAGE = "other", "page"
"""Colours of a step that is not in the step table, and of the page itself."""


def group_of(view: StepView) -> str:
    """The group that a step belongs to in pictures."""
    row = STEPS.get(view.step)
    return row.group if row else OTHER


def legend(run: Run) -> list[tuple[str, str]]:
    """(colour, name) of each group that the run has, in order, and of the page."""
    return [(group, group) for group in dict.fromkeys(map(group_of, run.steps))] + [(PAGE, "this page")]


def graph(run: Run, report_id: str) -> Markup:
    """The run's graph. The page itself is drawn behind the steps that nothing else reads."""
    boxes = [
        Box(
            key=view.key,
            lines=_lines(run, view),
            colour=f"c-{group_of(view)}",
            link=f"#step-{view.key}",
            inputs=view.inputs,
            title=f"{view.key}: {STEPS[view.step].summary if view.step in STEPS else view.step}\nid {view.id}",
        )
        for view in run.steps
    ]
    read = {key for view in run.steps for key in view.inputs}
    ends = tuple(view.key for view in run.steps if view.key not in read)
    lines = ("report", run.recipe, short(report_id), plural(len(run.steps), "artifact"))
    boxes.append(Box("report", lines, f"c-{PAGE}", "#reproduce", ends, f"report: this page\nid {report_id}"))
    return draw(boxes)


def _lines(run: Run, view: StepView) -> tuple[str, ...]:
    """The step and its data set, or the trained row and its variants; the id; the rows that came out, and the time."""
    trained, counts = view.kind == "checkpoint", view.manifest.counts
    unit = counts.unit if counts.rows_out == 1 else manifest.plural(counts.unit)
    return (
        view.name if trained else view.step,
        run.label_of(view.name) if trained else variant_name(view.name),
        short(view.id),
        f"{short_count(counts.rows_out)} {unit}, {short_duration(view.manifest.provenance.seconds)}",
    )
