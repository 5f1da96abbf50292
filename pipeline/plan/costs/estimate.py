"""The costs of a whole plan on a cluster: one row per step, the totals, and what does not fit."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.artifacts.store import Artifact
from pipeline.masks.teachers.table import teacher_kind
from pipeline.plan.costs.amounts import Amount, Given, amounts
from pipeline.plan.costs.calibration import Calibration
from pipeline.plan.costs.cluster import Cluster
from pipeline.plan.costs.figures import Figure, Unit, quantity
from pipeline.plan.costs.stages import GPU_MFU, stage_cost
from pipeline.plan.costs.student import Student
from pipeline.plan.planner import GUIDED_ROWS, PlannedStep
from pipeline.plan.recipe import Recipe
from pipeline.plan.status import Verdict

SAM_FLOPS = {"sam_vit_h": 5.95e12, "sam_vit_l": 2.98e12, "sam_vit_b": 0.97e12}
"""FLOPs of SAM's image encoder at 1024 px, by the file's name: two for each of 2,973, 1,491 and 486 G multiply-adds."""
FLORENCE_PARAMETERS = {"florence-2-large": 0.77e9, "florence-2-base": 0.23e9}
FLORENCE_TOKENS, SEARCH_TOKENS = 600, 64
"""Tokens that Florence-2 reads (577 of the picture, and the prompt), and those that it writes: an assumption."""
TEACHERS_MFU, ANSWERS_MFU = 0.2, 0.05
"""Shares of the peak that teachers and generation reach. They run one token at a time: assumptions."""


@dataclass(frozen=True)
class StepCost:
    """One step: its state, and its figures by name. A cached step costs nothing."""

    key: str
    condition: str
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Estimate:
    """The costs of a plan. notes: assumptions and origins that hold for all steps."""

    cluster: Cluster
    steps: list[StepCost]
    totals: list[Figure]
    warnings: list[str]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """All figures with their arithmetic, as plain data."""
        return asdict(self)


def estimate(
    recipe: Recipe,
    verdicts: Sequence[Verdict],
    artifacts: Mapping[str, Artifact],
    student: Student,
    on: Cluster,
    given: Given,
    calibration: Calibration | None,
    free: int | None,
) -> Estimate:
    """The costs of every step that would run.

    Args:
        artifacts: those of the plan that exist, by step key.
        free: free bytes on the store's disk; None if that is not known.
    """
    found = amounts(recipe, artifacts, given)
    steps, warnings = [], []
    for verdict in verdicts:
        if verdict.condition in ("cached", "to check"):
            figures = []
        elif verdict.step.step.group == "training":
            dataset = verdict.step.inputs["pack"].removeprefix("pack-")
            row = str(verdict.step.spec.params["row"])
            guided = _queries(recipe, GUIDED_ROWS[row], found) or 0 if row in GUIDED_ROWS else 0
            cost = stage_cost(verdict.step, student, found[dataset], recipe.pack.max_tokens, guided, on, calibration)
            figures = cost.figures
            warnings += cost.warnings
        else:
            figures = _other(recipe, verdict.step, found, student, on)
        steps.append(StepCost(verdict.step.key, verdict.condition, {figure.name: figure for figure in figures}))
    totals = _totals(steps)
    storage = next(figure for figure in totals if figure.name == "storage")
    if free is not None and storage.value is not None and storage.value > free:
        warnings.append(
            f"the store needs {storage.text} more, but its disk has {quantity(free, 'bytes')} free; point "
            "$AGEVLM_STORE to a larger disk or an object store"
        )
    return Estimate(on, steps, totals, warnings, _notes(student, found, calibration, on.gpu))


def _other(
    recipe: Recipe, step: PlannedStep, found: Mapping[str, Amount], student: Student, on: Cluster
) -> list[Figure]:
    """The figures of a step that trains nothing; hours are shown only for those with models."""
    name = step.ref.name
    if step.step.name == "pack":
        amount = found[name]
        how = f"{amount.how}; {amount.assumed}" if amount.assumed else amount.how
        tokens = None if amount.records is None else amount.records * amount.tokens
        return [
            Figure("samples", amount.records, "samples", amount.how),
            Figure("tokens", tokens, "tokens", how),
            Figure("storage", amount.bytes, "bytes", how),
        ]
    if step.step.name == "inventory":
        return [Figure("samples", found[name].records, "samples", found[name].how)]
    if step.step.name == "segment":
        return _segment(recipe, step, _queries(recipe, name, found), on)
    if step.step.name == "evaluate":
        return _evaluate(recipe, found["evaluation"], student, on)
    return []


def _queries(recipe: Recipe, name: str, found: Mapping[str, Amount]) -> int | None:
    """Queries that the teachers answer: the subset's size, at most one a record with an image."""
    dataset = getattr(recipe.data, name)
    asked: int | None = dataset.subset if dataset.quotas is None else sum(dataset.quotas.values())
    images = found[name].images
    return images if asked is None else asked if images is None else min(asked, images)


def _segment(recipe: Recipe, step: PlannedStep, queries: int | None, on: Cluster) -> list[Figure]:
    figures = [Figure("samples", queries, "samples", "queries, one a record with an image")]
    roles = teacher_kind(recipe.teacher.kind).weights
    if not roles:
        return [*figures, Figure("FLOPs", 0, "FLOP", f"the teacher '{recipe.teacher.kind}' runs no model")]
    if set(roles) != {"florence", "sam"}:
        return figures
    sam = _by_name(recipe.weights.sam, SAM_FLOPS)
    florence = _by_name(recipe.weights.florence, FLORENCE_PARAMETERS)
    if queries is None or sam is None or florence is None:
        return figures
    tokens = FLORENCE_TOKENS + recipe.teacher.beams * SEARCH_TOKENS
    total = queries * (sam + 2 * florence * tokens)
    how = (
        f"estimate: {queries:,} x ({quantity(sam, 'FLOP')} of SAM + 2 x {florence / 1e9:.2f}B parameters of Florence-2 "
        f"x {tokens} tokens)"
    )
    figures.append(Figure("FLOPs", total, "FLOP", how))
    return [*figures, _estimated_time(total, step, on, TEACHERS_MFU)]


def _evaluate(recipe: Recipe, amount: Amount, student: Student, on: Cluster) -> list[Figure]:
    """One picture and an answer of the greatest length for each question, on one device."""
    how = f"questions: {amount.how}"
    if amount.records is None:
        return [Figure("samples", None, "samples", how)]
    tokens = amount.tokens + recipe.evaluation.max_new_tokens
    total = amount.records * 2 * student.total * tokens
    words = f"estimate: {amount.records:,} questions x 2 x {student.total:,} parameters x {tokens:.0f} tokens"
    seconds = total / (on.peak * ANSWERS_MFU)
    time = Figure("time", seconds, "s", f"estimate: at {ANSWERS_MFU:.0%} of the peak of one device (assumed)")
    return [Figure("samples", amount.records, "samples", how), Figure("FLOPs", total, "FLOP", words), time]


def _estimated_time(total: float, step: PlannedStep, on: Cluster, share: float) -> Figure:
    lanes = min(step.resources.workers, on.devices)
    how = f"estimate: {lanes} workers at {share:.0%} of the peak {quantity(on.peak, 'FLOP/s')} (assumed)"
    return Figure("time", total / (lanes * on.peak * share), "s", how)


def _by_name(location: str, table: Mapping[str, float]) -> float | None:
    return next((value for part, value in table.items() if part in location.lower()), None)


def _totals(steps: Sequence[StepCost]) -> list[Figure]:
    """Sums over the steps that would run; `how` names those that have no such figure."""
    units: tuple[tuple[str, Unit], ...] = (("FLOPs", "FLOP"), ("time", "s"), ("storage", "bytes"))
    running, found = [step for step in steps if step.figures], []
    for name, unit in units:
        values = {s.key: s.figures[name].value for s in running if name in s.figures}
        known = [value for value in values.values() if value is not None]
        left_out = sorted({s.key.split("-")[0] for s in running if values.get(s.key) is None})
        words = f"{len(known)} steps" + (", one after the other" if name == "time" else "")
        total = sum(known) if known or not left_out else None
        found.append(Figure(name, total, unit, words + (f"; without {', '.join(left_out)}" if left_out else "")))
    return found


def _notes(student: Student, found: Mapping[str, Amount], calibration: Calibration | None, gpu: bool) -> list[str]:
    notes = [f"student: {student.total:,} parameters; sizes from " + "; ".join(student.origin.values())]
    for name, amount in found.items():
        if amount.assumed and name != "evaluation":
            notes.append(f"{name}: assumed {amount.assumed}")
    if gpu:
        notes.append(
            f"times: stages at {GPU_MFU:.0%} of the peak, as measured on one H200 (docs/cost-model.md); others assumed"
        )
    elif calibration is None:
        notes.append("times: no calibration of this machine for this recipe's student; peaks and shares are assumed")
    else:
        notes.append(f"times of stages: calibrated {calibration.measured[:16]} on {calibration.machine}")
    return notes
