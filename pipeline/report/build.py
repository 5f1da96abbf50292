"""From a run to its page: every section made from what was collected, or left out where the run has nothing for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

from model.errors import DataError
from pipeline.artifacts.spec import ID_LENGTH
from pipeline.recipe import available
from pipeline.report import figures
from pipeline.report.collect import DATASET_NAMES, Run, StepView, variant_name, variants_text
from pipeline.report.dag import Box, draw
from pipeline.report.evaluation import evaluation_of
from pipeline.report.findings import headline, limits, quality_sentences
from pipeline.report.mask_rows import Row
from pipeline.report.masks import MaskSet, examples, mask_sets
from pipeline.report.origin import origin_of
from pipeline.report.overlays import images_of, overlay
from pipeline.report.page import CUT, clip, cut, plural, render, short_count, short_duration, words
from pipeline.report.reproduce import commands, conditions, parameters
from pipeline.report.training import Stage, guidance_charts, loss_charts, mass_charts, stages_of

PICTURES = {"accepted": 6, "rejected": 4, "no_region": 2}
EXAMPLES = 8
COLOURS = {
    "inventory": "data",
    "subset": "data",
    "pack": "data",
    "segments": "teachers",
    "masks": "teachers",
    "checkpoint": "training",
    "evaluation": "evaluating",
    "report": "page",
}
LEGEND = {
    "data": "data",
    "teachers": "teachers (Florence-2, SAM)",
    "training": "training",
    "evaluating": "evaluation",
    "page": "this page",
}


@dataclass(frozen=True)
class Picture:
    """A query drawn on its image."""

    row: Row
    uri: str
    alt: str
    facts: str


@dataclass(frozen=True)
class MaskSection:
    """What the page shows of one data set's masks."""

    set: MaskSet
    heading: str
    bar: Markup
    sentences: list[str]
    histograms: list[tuple[str, Markup]]
    pictures: list[Picture]
    note: str


@dataclass(frozen=True)
class ChartGroup:
    """Charts of one quantity."""

    title: str
    text: str
    charts: list[tuple[str, Markup]]


def build(run: Run, report_id: str, made: datetime, miniature_weights: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The page and its headline numbers.

    `miniature_weights`: role -> checksum of the shipped miniature weights, to say plainly when the teachers are those.
    """
    masks, stages = mask_sets(run), stages_of(run)
    evaluation = evaluation_of(run, EXAMPLES)
    sources = {v.artifact.ref.name: str((v.params.get("source") or {}).get("kind")) for v in run.of_kind("inventory")}
    miniature = miniature_teachers(run, miniature_weights)
    head = headline(run, masks, stages, evaluation)
    definition = available().get(run.recipe)
    origin = origin_of(run, miniature_weights)
    page = render(
        run=run,
        made=made,
        report_id=report_id,
        headline=head,
        variants=[(v, variant_name(v)) for v in run.variants],
        graph=graph(run, report_id),
        legend=[
            (c, label)
            for c, label in LEGEND.items()
            if c == "page" or c in {COLOURS.get(v.artifact.ref.kind) for v in run.steps}
        ],
        longest=max((v.provenance.seconds for v in run.steps), default=0) or 1,
        masks=[mask_section(run, m, miniature and sources.get(m.name) != "miniature") for m in masks],
        stages=stages,
        charts=chart_groups(stages),
        evaluation=evaluation,
        limits=limits(run, masks, evaluation, set(sources.values()), miniature),
        commands=commands(run, origin, report_id),
        conditions=conditions(run, origin),
        origin=origin,
        devices=sorted({v.provenance.device for v in run.steps}),
        hosts=sorted({v.provenance.host for v in run.steps if v.provenance.host}),
        parameters=parameters(run),
        definition=definition.read_text(encoding="utf-8") if definition else "",
    )
    overlap = evaluation.overlap if evaluation else None
    statistics = {
        "findings": head.findings,
        "evaluation_images": None if overlap is None else {"all": overlap.images, "trained_on": overlap.trained_on},
        "tiles": {tile.label: tile.value for tile in head.tiles},
        "trouble": list(run.trouble),
        "bytes": len(page.encode("utf-8")),
    }
    return page, statistics


def graph(run: Run, report_id: str) -> Markup:
    """The run's graph; the page itself is drawn behind the steps that nothing else reads."""
    read = {key for view in run.steps for key in view.inputs}
    boxes = [
        Box(
            key=view.key,
            lines=(view.title, _subtitle(run, view), view.short_id, _brief(view)),
            colour=f"c-{COLOURS.get(view.artifact.ref.kind, 'page')}",
            link=f"#step-{view.key}",
            inputs=view.inputs,
            title=f"{view.key}: {view.summary}\nid {view.id}",
        )
        for view in run.steps
    ]
    ends = tuple(view.key for view in run.steps if view.key not in read)
    lines = ("report", run.recipe, report_id[:12], plural(len(run.steps), "artifact"))
    boxes.append(Box("report", lines, "c-page", "#reproduce", ends, f"report: this page\nid {report_id}"))
    return draw(boxes)


def _subtitle(run: Run, view: StepView) -> str:
    """Second line of a node: the data set, or the variants that it is made for."""
    name = view.artifact.ref.name
    kind = view.artifact.ref.kind
    if kind == "checkpoint":
        return variants_text(run.rows.get(name, ()), run.variants)
    return variant_name(name) if kind == "evaluation" else name


def _brief(view: StepView) -> str:
    number, unit = view.counts.rows_out, view.counts.unit
    return f"{short_count(number)} {unit if number == 1 else words(unit)}, {short_duration(view.provenance.seconds)}"


def mask_section(run: Run, masks: MaskSet, foreign: bool) -> MaskSection:
    """One data set's masks, with pictures where the run packed the images."""
    bar = figures.stacked_bar(
        f"{masks.name}: queries by status",
        [(s.replace("_", " "), n, f"c-{s if s in PICTURES else 'other'}") for s, n in masks.statuses.items()],
    )
    histograms = [
        (f"Accepted masks by IoU with the truth ({q.kind.replace('_', ' ')})", figures.histogram("IoU", q.histogram()))
        for q in masks.quality
        if q.ious
    ]
    pack = run.get(f"pack-{masks.name}")
    pictures = picture_rows(pack, masks) if pack else []
    return MaskSection(
        set=masks,
        heading=f"{DATASET_NAMES.get(masks.name, masks.name).capitalize()} data",
        bar=bar,
        sentences=quality_sentences(masks, foreign),
        histograms=histograms,
        pictures=pictures,
        note=_picture_note(pictures),
    )


def _picture_note(pictures: list[Picture]) -> str:
    note = "Chosen by a hash of their ids, not by eye. Orange: the published mask. Blue: what the gates refused."
    note += " White line: the truth." if any(p.row.truth for p in pictures) else ""
    return f"{note} {CUT}" if cut(*(p.row.query for p in pictures)) else note


def picture_rows(pack: StepView, masks: MaskSet) -> list[Picture]:
    """Queries drawn on their images: some of each status whose image is at hand."""
    spare = examples(masks.rows, {status: 8 * number for status, number in PICTURES.items()})
    found = images_of(pack.artifact, {row.key[0] for row in spare})
    shown = examples(masks.rows, PICTURES, among={row.key for row in spare if row.key[0] in found})
    pictures = []
    for row in shown:
        try:
            uri = overlay(found[row.key[0]], row.size, row.rle, row.evidence, row.truth)
        except DataError as error:
            raise DataError(f"image of {row.key[0]} in {pack.artifact.ref}: {error}; make the pack again") from error
        status = row.status.replace("_", " ")
        pictures.append(Picture(row, uri, f"{status}: {clip(row.query)}", _facts(row)))
    return pictures


def _facts(row: Row) -> str:
    names = {"polygon_score": "Florence", "sam_iou": "SAM", "agreement_iou": "agreement"}
    parts = [f"{names[name]} {value:.2f}" for name, value in row.scores.items()]
    if row.iou is not None and row.rle:
        parts.append(f"IoU with truth {row.iou:.2f}")
    elif row.raw_iou is not None and row.evidence:
        parts.append(f"IoU with truth {row.raw_iou:.2f} before gates")
    elif row.present is False:
        parts.append("not in the image")
    return " \u00b7 ".join(parts)


def chart_groups(stages: list[Stage]) -> list[ChartGroup]:
    """The training charts in reading order."""
    return [
        ChartGroup(
            "Language loss",
            "Mean over the target tokens of the steps since the last point. Stages 1 and 2 are trained once and "
            "shared. Each chart has its own scale.",
            loss_charts(stages),
        ),
        ChartGroup(
            "Guidance loss",
            "Eq. 3 of the paper, over the guided rows of the steps since the last point. Its floor depends on the "
            "size of the masks, so its fall matters more than its height.",
            guidance_charts(stages),
        ),
        ChartGroup(
            "Attention inside the mask, per cross-attention layer",
            "The share of the query tokens' attention that lands on cells of the teachers' mask, on guided training "
            f"rows.{_rows_per_point(stages)}",
            mass_charts(stages),
        ),
        ChartGroup(
            "Attention on padding, per cross-attention layer",
            "The share that lands on cells without any image pixel. The default letterbox masks these out.",
            [] if _no_padding(stages) else mass_charts(stages, padding=True),
        ),
    ]


def _rows_per_point(stages: list[Stage]) -> str:
    """How many guided rows stand behind a point: few make a line jump."""
    told = [f"{round(s.guided_rows / len(s.guided))} in {s.row}" for s in stages if s.guided_rows]
    return f" Guided rows behind each point, on average: {', '.join(told)}; few make a line jump." if told else ""


def _no_padding(stages: list[Stage]) -> bool:
    return all(value == 0 or value != value for s in stages for layer in s.padding for value in layer)


def miniature_teachers(run: Run, miniature_weights: Mapping[str, str]) -> bool:
    """Whether teachers or backbones are the miniature ones that ship with the project."""
    used = {str(v.params.get(role)) for v in run.steps for role in ("florence", "sam", "text", "vision", "tokenizer")}
    return bool(used & {w for w in miniature_weights.values() if len(w) == ID_LENGTH})
