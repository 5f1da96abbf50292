"""What the run found, in sentences whose every number is computed here, and what the numbers do not show."""

from dataclasses import dataclass

from pipeline.report import comparison
from pipeline.report.collect import DATASET_NAMES, Run, variant_name
from pipeline.report.evaluation import Evaluation
from pipeline.report.masks import KIND_NAMES, MaskSet, Quality
from pipeline.report.overlap import overlap_words
from pipeline.report.page import count, duration, plural, score, share, size
from pipeline.report.training import Stage

GRADES = ((0.75, "good"), (0.5, "usable"), (0.25, "poor"), (0.0, "bad"))
# The scores that the head of the page speaks of.
LEADING = frozenset({("existence", "accuracy"), ("existence", "open_exact_match"), ("attention", "in_mask")})


@dataclass(frozen=True)
class Tile:
    """One number in the page's head."""

    label: str
    value: str


@dataclass(frozen=True)
class Headline:
    """The head of the page."""

    title: str
    tiles: list[Tile]
    findings: list[str]


def headline(run: Run, masks: list[MaskSet], stages: list[Stage], evaluation: Evaluation | None) -> Headline:
    """The head of the page: what was run, its totals, and what was found."""
    records = sum(v.counts.rows_out for v in run.of_kind("inventory"))
    rejected = sum(v.counts.total_rejected for v in run.steps)
    tiles = [Tile("steps", count(len(run.steps))), Tile("time in steps", duration(run.seconds))]
    if records:
        tiles.append(Tile("records", count(records)))
    if masks:
        accepted = sum(m.statuses.get("accepted", 0) for m in masks)
        tiles.append(Tile("masks accepted", f"{count(accepted)} of {count(sum(m.total for m in masks))}"))
    if stages:
        tiles.append(Tile("optimiser steps", count(int(sum(s.steps[-1] for s in stages if s.steps)))))
    tiles += [Tile("rejected rows", count(rejected)), Tile("artifacts' size", size(run.bytes))]
    findings = [mask_finding(m) for m in masks]
    if evaluation:
        if evaluation.overlap and evaluation.overlap.finding:
            findings.append(f"Trained-on images in the evaluation: {evaluation.overlap.finding}.")
        findings += score_findings(evaluation)
    findings += [s for stage in stages if (s := guidance_finding(stage))]
    reach = "from raw data to answers" if evaluation and records else f"{plural(len(run.steps), 'step')}"
    return Headline(f"Recipe \u201c{run.recipe}\u201d, {reach}", tiles, findings)


def grade(iou: float) -> str:
    """A plain word for a mean IoU: good from 0.75, usable from 0.5, poor from 0.25, else bad."""
    return next(word for least, word in GRADES if iou >= least)


def mask_finding(masks: MaskSet) -> str:
    """How many texts of a data set got a mask, and how good these are where the truth is known."""
    accepted = masks.statuses.get("accepted", 0)
    words = (
        f"{DATASET_NAMES.get(masks.name, masks.name).capitalize()} data: {count(accepted)} of "
        f"{plural(masks.total, 'query')} got a mask that passed the gates ({share(accepted, masks.total)})."
    )
    measured = [q for q in masks.quality if q.ious]
    for q in measured:
        assert q.mean is not None
        words += (
            f" Beside the truth these masks are {grade(q.mean)}: mean IoU {score(q.mean)}, "
            f"median {score(q.median)} (n = {len(q.ious)})."
        )
    for q in masks.quality:
        if q.absent_total:
            words += f" Of {plural(q.absent_total, 'text')} about absent things, {absent_words(q)}."
    return words


def absent_words(q: Quality) -> str:
    """What became of texts about absent things: only a missing region is the teachers' own right answer."""
    words = (
        f"{count(q.absent['no_region'])} rightly got no region, {count(q.absent['rejected'])} got a mask that a gate "
        f"stopped, {count(q.absent['accepted'])} got a wrong mask that came through"
    )
    return f"{words}; {count(q.absent['error'])} could not be asked (errors)" if q.absent["error"] else words


def quality_sentences(masks: MaskSet, foreign: bool) -> list[str]:
    """Plain words under a data set's table. `foreign`: miniature teachers on images that are not of their world."""
    lines = []
    for q in masks.quality:
        kind = KIND_NAMES.get(q.kind, q.kind)
        if q.asked:
            lines.append(_quality(kind, q, foreign))
        if q.absent_total:
            about = f"{plural(q.absent_total, 'text')} ({kind}) about something that is not in the image"
            lines.append(f"Of {about}, {absent_words(q)}.")
        if q.incomparable:
            lines.append(
                f"{q.incomparable} rows ({kind}) could not be compared: the truth has another size than the image."
            )
    if masks.unknown:
        lines.append(
            f"For {plural(masks.unknown, 'query')} of {count(masks.total)} no truth is known; they are not judged here."
        )
    parts = " + ".join(f"{count(n)} {status.replace('_', ' ')}" for status, n in masks.statuses.items())
    lines.append(f"Every query is accounted for: {parts} = {count(masks.total)}.")
    return lines


def _quality(kind: str, q: Quality, foreign: bool) -> str:
    if q.mean is None:
        words = f"None of the {q.asked} texts ({kind}) about something present got an accepted mask."
    else:
        words = (
            f"{q.accepted} of {q.asked} texts ({kind}) about something present got an accepted mask. These are "
            f"{grade(q.mean)}: mean IoU {score(q.mean)}, median {score(q.median)}, {share(q.half)} reach 0.5."
        )
    if q.errors:
        words += f" {count(q.errors)} of the texts could not be asked (errors)."
    if q.raw_mean is not None:
        words += (
            f" Over all that were asked, gates aside and a missing mask counted as 0, the teachers reach "
            f"{score(q.raw_mean)}."
        )
    if foreign:
        words += (
            " The teachers here are the miniature ones, which have seen nothing but rendered shapes: on these images "
            "their masks are not fit to teach from, and the run shows the machinery, not a result."
        )
    return words


def score_findings(evaluation: Evaluation) -> list[str]:
    """One sentence per leading score: every variant's value beside chance, and which differences the questions show."""
    lines = []
    for key in dict.fromkeys((s.benchmark, s.metric) for s in evaluation.table):
        if key not in LEADING:
            continue
        group = [s for s in evaluation.table if (s.benchmark, s.metric) == key]
        values = ", ".join(
            f"{s.name} {s.value:.2f} \u00b1 {s.error:.{3 if 0 < s.error < 0.005 else 2}f}" for s in group
        )
        title = f"{group[0].title[:1].upper()}{group[0].title[1:]}"
        chance = f"; {group[0].chance_name}: {group[0].chance:.2f}" if group[0].chance is not None else ""
        words = f"{title}: {values} (n = {count(min(s.n for s in group))}{chance})."
        gains = [d for d in evaluation.differences if (d.measure.benchmark, d.measure.metric) == key]
        lines.append(f"{words} {comparison.finding(gains)}" if gains else words)
    return lines


def guidance_finding(stage: Stage) -> str:
    """How attention inside the masks moved over a guided stage; '' where too little was guided to tell."""
    ends = stage.first_and_last_mass
    if not ends:
        return ""
    moves = ", ".join(
        f"{name} from {100 * start:.0f} to {100 * end:.0f}\u202f%"
        for name, (start, end) in zip(stage.layers, ends, strict=True)
    )
    return (
        f"Attention inside the teachers' masks while {stage.row} trained: {moves} "
        f"(first and last third of {count(stage.guided_rows)} guided rows; {stage.names})."
    )


def limits(
    run: Run, masks: list[MaskSet], evaluation: Evaluation | None, sources: set[str], miniature: bool
) -> list[str]:
    """What a reader should keep in mind, as far as it applies to this run."""
    lines = []
    if miniature:
        lines.append(
            "Teachers and backbones are the miniature ones that ship with the project, trained on rendered shapes. "
            "They show that every part of the pipeline does its work; they say nothing about the paper's scores."
        )
    if "miniature" in sources:
        lines.append(
            "The images are rendered: coloured shapes on textured backgrounds, with short texts from a few patterns. "
            "Scores on them do not carry over to photographs."
        )
    if any(m.quality for m in masks):
        lines.append(
            "The guidance loss teaches whatever the accepted masks show. Their IoU with the truth, above, limits how "
            "far attention inside the mask can mean attention on the right object."
        )
    elif masks:
        lines.append(
            "No truth is known for these masks: counts and the teachers' own scores say how sure they were, not how "
            "right."
        )
    if evaluation:
        lines.append(overlap_words(evaluation.overlap))
        names = ", ".join(variant_name(v) for v in run.variants)
        lines.append(
            f"One seed per variant ({names}). The intervals cover the choice of questions only, not that of data order "
            "and initial weights; another seed can change the order of variants that lie close together."
        )
        lines.append(
            "Attention maps show where a cross-attention layer looked, averaged over heads and over the question's "
            "tokens. They are evidence of where information came from, not proof of what the answer was made of."
        )
    if not lines:
        lines.append("This run trained and evaluated nothing; the numbers describe its data only.")
    return lines
