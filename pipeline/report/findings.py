"""The page's sentences: title, totals and findings at its head, and its limits. Artifacts give every number."""

from pipeline.report.answer import QUESTIONS, answer_findings
from pipeline.report.collect import Run, variant_name
from pipeline.report.differences import Difference
from pipeline.report.evaluation import EvaluationSection, Score
from pipeline.report.formatting import capital, count, duration, plural, size
from pipeline.report.masks import MaskSection
from pipeline.report.overlap import overlap_words
from pipeline.report.training import StageCurves

ATTENTION = (("attention", "in_mask"), ("attention", "pointing"))
LEADING = (*QUESTIONS, *ATTENTION)
"""Benchmark and metric of the scores that the head of the page names."""


def title(run: Run, evaluation: EvaluationSection | None) -> str:
    """The recipe, and how far the run went."""
    whole = evaluation and run.of_kind("inventory")
    return f"Recipe \u201c{run.recipe}\u201d, {'from raw data to answers' if whole else plural(len(run.steps), 'step')}"


def totals(run: Run, masks: list[MaskSection], stages: list[StageCurves]) -> dict[str, str]:
    """Name -> number, as it is shown."""
    seconds = sum(v.manifest.provenance.seconds for v in run.steps)
    found = {"steps": count(len(run.steps)), "time in steps": duration(seconds)}
    if records := sum(v.manifest.counts.rows_out for v in run.of_kind("inventory")):
        found["records"] = count(records)
    if masks:
        accepted = sum(m.statuses["ok"] for m in masks)
        found["masks accepted"] = f"{count(accepted)} of {count(sum(m.total for m in masks))}"
    if stages:
        found["optimiser steps"] = count(int(sum(s.steps[-1] for s in stages if s.steps)))
    found["rejected rows"] = count(sum(v.manifest.counts.total_rejected for v in run.steps))
    return found | {"artifacts' size": size(sum(v.manifest.bytes for v in run.steps))}


def findings(masks: list[MaskSection], stages: list[StageCurves], evaluation: EvaluationSection | None) -> list[str]:
    """Sentences about answers, attention and masks, in this order: the answer to the paper's question comes first."""
    found = []
    if evaluation:
        found = answer_findings(evaluation)
        named = ATTENTION if found else LEADING
        leading = (group for group in evaluation.scores if (group[0]["benchmark"], group[0]["metric"]) in named)
        found += [score_finding(group, evaluation.differences) for group in leading]
        if evaluation.overlap and evaluation.overlap.finding:
            found.append(f"Trained-on images in the evaluation: {evaluation.overlap.finding}.")
    return found + [m.finding for m in masks] + [s.finding for s in stages if s.finding]


def score_finding(group: list[Score], differences: list[Difference]) -> str:
    """One score: every variant's value beside chance, and the differences between the variants."""
    first = group[0]
    values = ", ".join(
        f"{s['name']} {s['value']:.2f} \u00b1 {s['standard_error']:.{3 if 0 < s['standard_error'] < 0.005 else 2}f}"
        for s in group
    )
    chance = f"; {first['chance_name'] or 'chance'}: {first['chance']:.2f}" if first["chance"] is not None else ""
    words = f"{capital(first['title'])}: {values} (n = {count(min(s['n'] for s in group))}{chance})."
    gains = [d for d in differences if d.measure == (first["benchmark"], first["metric"])]
    if not gains:
        return words
    return f"{words} Against {variant_name(gains[0].base)} on the same questions: {', '.join(d.words for d in gains)}."


def limits(run: Run, masks: list[MaskSection], evaluation: EvaluationSection | None, miniature: list[str]) -> list[str]:
    """One or two sentences per limit. `miniature`: roles whose weights are those that ship with the project."""
    lines = []
    if miniature:
        lines.append(
            f"These weights are the miniature ones that ship with the project, trained on rendered shapes: "
            f"{', '.join(miniature)}. They show that the pipeline works; they say nothing about the paper's scores."
        )
    if "miniature" in run.source_kinds.values():
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
        names = ", ".join(variant_name(v) for v in run.variants)
        lines += [
            overlap_words(evaluation.overlap),
            f"One seed per variant ({names}). The intervals cover the choice of questions only, not the order of the "
            "data and the initial weights; another seed can change the order of variants that lie close together.",
            "Attention maps show where a cross-attention layer looked, averaged over heads and over the question's "
            "tokens. They are evidence of where information came from, not proof of what the answer was made of.",
        ]
    return lines or ["This run trained and evaluated nothing; the numbers describe its data only."]
