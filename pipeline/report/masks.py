"""The section on masks: per data set the counts by status and reason, settings, pictures, and IoU with the truth."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from pipeline.artifacts.store import Artifact
from pipeline.masks.gates import GATES
from pipeline.masks.price import Price
from pipeline.masks.prices import price_from, read_prices
from pipeline.masks.teachers.table import TEACHERS, settings_read
from pipeline.report.charts.dot_chart import histogram
from pipeline.report.collect import DATASET_NAMES, Run, StepView
from pipeline.report.formatting import capital, count, cut_note, plural, score, share
from pipeline.report.mask_pictures import Picture, pictures_of, rows_of
from pipeline.report.overlays import shrink
from pipeline.report.sample import Sample
from pipeline.schemas import CONTACT_SHEET, MASK_STATUSES

SHEET_WIDTH = 1506
"""Pixels of the contact sheet's longer side on the page."""
FIGURES = {
    "polygon_score": ("Florence's score of its answer", "score", "queries"),
    "sam_iou": ("IoU that SAM predicts", "predicted IoU", "instances"),
    "agreement_iou": ("Agreement of polygon and mask", "IoU", "instances"),
    "stability": ("Stability of the mask", "IoU", "instances"),
    "area_fraction": ("Area of the mask", "fraction of the image", "instances"),
}
"""Figure of the evidence -> its chart's title, axis and unit."""
GRADES = ((0.75, "good"), (0.5, "usable"), (0.25, "poor"), (0.0, "bad"))


@dataclass(frozen=True)
class MaskSection:
    """The masks of one data set."""

    name: str
    statuses: dict[str, int]
    reasons: dict[str, dict[str, int]]  # status -> reason -> number
    settings: dict[str, Any]  # of the gates and the teachers
    quality: dict[str, dict[str, Any]]  # kind of text -> statistics of `TruthComparison`; empty where no truth is known
    unknown: int  # rows without a known truth
    foreign: bool  # miniature teachers on images that are not from their world
    pictures: list[Picture]
    sheet: str = ""  # the contact sheet as a data URI
    evidence: dict[str, Any] = field(default_factory=dict)  # `EvidenceSummary` of all rows
    alone: dict[str, int] = field(default_factory=dict)  # gate -> rows that it would reject by itself
    prices: list[Price] = field(default_factory=list)  # empty where no truth is known

    @property
    def title(self) -> str:
        """'Pretraining data'."""
        return f"{capital(DATASET_NAMES.get(self.name, self.name))} data"

    @property
    def about(self) -> str:
        """A sentence about the teacher; '' for one that is not known here."""
        kind = TEACHERS.get(self.settings.get("kind", ""))
        return kind.about if kind else ""

    @property
    def total(self) -> int:
        """Number of queries."""
        return sum(self.statuses.values())

    @property
    def histograms(self) -> list[tuple[str, Markup]]:
        """IoU of the accepted masks, one chart per kind of text."""
        return [
            (f"Accepted masks by IoU with the truth ({kind})", histogram("IoU", q["iou"]["histogram"], "masks"))
            for kind, q in self.quality.items()
            if q["iou"]["count"]
        ]

    @property
    def figures(self) -> list[tuple[str, Markup]]:
        """Distributions of the teachers' figures before the gates, one chart each."""
        return [
            (f"{title}, before the gates", histogram(axis, self.evidence[name]["histogram"], unit))
            for name, (title, axis, unit) in FIGURES.items()
            if self.evidence.get(name, {}).get("count")
        ]

    @property
    def losses(self) -> list[tuple[str, str]]:
        """Numbers about answers and texts in the evidence: name and value."""
        found = self.evidence
        if not found:
            return []
        answers, tokens = found["answers"], found["answer_tokens"]
        cut, degenerate = found["characters_cut"], found["degenerate"]
        rows = []
        if answers["ended_share"] is not None:
            rows.append(("Answers that ended", share(answers["ended_share"])))
            rows.append(("Answers that the token budget cut off", count(answers["cut_off"])))
        if tokens["count"]:
            words = f"{tokens['quantiles']['0.5']:.0f} (median), {tokens['max']:.0f} (longest)"
            rows.append(("Tokens of an answer", words))
        return [
            *rows,
            ("Texts that were too long", f"{count(cut['rows'])} ({plural(cut['characters'], 'character')} cut)"),
            (
                "Regions without an area, dropped",
                f"{count(degenerate['regions'])} (in {plural(degenerate['rows'], 'query')})",
            ),
            ("Empty texts", count(found["empty_queries"])),
        ]

    @property
    def finding(self) -> str:
        """The number of texts that got a mask, and how good these are where the truth is known."""
        accepted = self.statuses["ok"]
        return (
            f"{self.title}: {count(accepted)} of {plural(self.total, 'query')} got a mask that passed the gates "
            f"({share(accepted, self.total)}).{''.join(map(quality_words, self.quality.values()))}"
        )

    @property
    def note(self) -> str:
        """The legend of the pictures."""
        note = "Chosen by a hash of their ids. Orange: the published mask. Blue: what the gates refused."
        note += " White line: the truth." if any(p.knows_truth for p in self.pictures) else ""
        return note + cut_note(*(p.row["query"] for p in self.pictures))


def mask_sections(run: Run, miniature_weights: Mapping[str, str]) -> list[MaskSection]:
    """The masks of every data set of the run. `miniature_weights`: role -> checksum of the shipped weights."""
    return [_section(run, view, set(miniature_weights.values())) for view in run.of_kind("masks")]


def _section(run: Run, view: StepView, miniature: set[str]) -> MaskSection:
    segments, inventory, pack = (run.get(kind, view.name) for kind in ("segments", "inventory", "pack"))
    reasons: dict[str, Counter[str]] = {}
    sample = Sample()
    for row in rows_of(view.artifact):
        reasons.setdefault(row["status"], Counter())[row["reason"]] += 1
        sample.add(row)
    evidence, truth = (found.artifact if found else None for found in (segments, inventory))
    measured = view.manifest.statistics.get("truth")
    alone = view.manifest.statistics.get("rejected_alone", {})
    teachers = {segments.params.get(role) for role in ("florence", "sam")} if segments else set()
    return MaskSection(
        name=view.name,
        statuses=dict.fromkeys(MASK_STATUSES, 0)
        | {status: numbers.total() for status, numbers in sorted(reasons.items())},
        reasons={status: dict(sorted(c.items(), key=lambda i: (-i[1], i[0]))) for status, c in sorted(reasons.items())},
        settings=view.params.get("gates", {}) | (settings_read(segments.params) if segments else {}),
        quality={k.replace("_", " "): q for k, q in sorted(measured["kinds"].items())} if measured else {},
        unknown=measured["overall"]["unknown"] if measured else 0,
        foreign=bool(teachers & miniature) and run.source_kinds.get(view.name) != "miniature",
        pictures=pictures_of(sample, pack.artifact, evidence, truth) if pack else [],
        sheet=_sheet(view.artifact),
        evidence=view.manifest.statistics.get("evidence", {}),
        alone={gate: alone[gate] for gate in GATES if gate in alone},
        prices=[price_from(row) for row in (read_prices(view.artifact) or {"prices": []})["prices"]],
    )


def _sheet(masks: Artifact) -> str:
    """The contact sheet as a data URI; '' if the artifact has none."""
    if CONTACT_SHEET not in masks.files:
        return ""
    with masks.open(CONTACT_SHEET) as stream:
        return shrink(stream.read(), SHEET_WIDTH)


def half_or_better(iou: Mapping[str, Any]) -> float | None:
    """Share of the accepted masks with IoU of at least 0.5, from the distribution of their IoU; None without any."""
    bins = iou.get("histogram", ())
    return sum(bins[len(bins) // 2 :]) / iou["count"] if iou["count"] else None


def quality_words(measured: Mapping[str, Any]) -> str:
    """The numbers of one kind of text as sentences, each with a space before it; '' if nothing could be compared."""
    words, iou = "", measured["iou"]
    if iou["count"]:
        words += (
            f" Compared with the truth these masks are {grade(iou['mean'])}: mean IoU {score(iou['mean'])}, "
            f"median {score(iou['quantiles']['0.5'])} (n = {count(iou['count'])})."
        )
    absent, outcomes = measured["absent"], measured["absent_outcomes"]
    if absent:
        words += (
            f" Of {plural(absent, 'text')} about absent things, {count(outcomes['no_region'])} rightly got no "
            f"region, {count(outcomes['low_quality'])} got a mask that a gate stopped, {count(outcomes['ok'])} "
            "got a wrong mask that passed the gates"
        )
        words += f"; {count(outcomes['error'])} could not be asked (errors)." if outcomes["error"] else "."
    return words


def grade(iou: float) -> str:
    """A plain word for a mean IoU: good from 0.75, usable from 0.5, poor from 0.25, else bad."""
    return next(word for least, word in GRADES if iou >= least)
