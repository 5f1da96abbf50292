"""The plan: a pure function from a recipe to its steps, with the ids of all artifacts before anything runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model.errors import ConfigError
from model.stage_table import STAGE_STEPS, STAGES, VARIANT_ROWS
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.compute.resources import Resources
from pipeline.masks.teachers.table import only_used, teacher_kind
from pipeline.plan.fingerprints import TOKENIZER
from pipeline.plan.recipe import Dataset, Recipe
from pipeline.plan.step_table import STEPS, Step
from pipeline.sources.config import identity
from pipeline.training.execution import Execution

GUIDED_ROWS = {"stage3": "pretrain", "stage4_lm": "instruct"}
DATASETS = ("pretrain", "instruct", "evaluation")
TRAINING_SETS = DATASETS[:2]


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan."""

    key: str
    """Unique in the plan and readable: 'segment-pretrain', 'stage4_lm', 'evaluate-age_vlm'."""
    step: Step
    spec: StepSpec
    ref: ArtifactRef
    attempt: int
    inputs: dict[str, str]
    """Input name -> key of the planned step that makes it."""
    resources: Resources
    execution: Execution | None = None
    """Settings of a running training stage; None for other steps. Never part of an id."""

    @property
    def id(self) -> str:
        """The id of the artifact that this step makes."""
        return self.ref.id


class Plan(tuple[PlannedStep, ...]):
    """The steps of a recipe, each after the steps that make its inputs."""

    __slots__ = ()

    def __getitem__(self, key: object) -> PlannedStep:  # type: ignore[override]
        """A step by key or position. Raises KeyError or IndexError."""
        if isinstance(key, int):
            return tuple.__getitem__(self, key)
        for step in self:
            if step.key == key:
                return step
        raise KeyError(key)

    def until(self, target: str) -> "Plan":
        """The plan of one step (by key), or of all steps with that name, and of their inputs. Raises ConfigError."""
        wanted = {s.key for s in self if target in (s.key, s.step.name)}
        if not wanted:
            names = sorted({s.step.name for s in self})
            raise ConfigError(
                f"until = '{target}': no such step in this plan; steps are {', '.join(names)}, "
                f"or one of {', '.join(s.key for s in self)}"
            )
        for step in reversed(self):
            if step.key in wanted:
                wanted |= set(step.inputs.values())
        return Plan(s for s in self if s.key in wanted)


class PlanBuilder:
    """Collects the steps of a plan. A step's inputs must be added before it.

    Args:
        recipe: the recipe to plan.
        attempts: the current attempt of a spec (`ArtifactStore.attempt`; 0 unless a new one was forced).
        fingerprints: checksums of raw data and weights (`Fingerprints.recipe`).
    """

    def __init__(self, recipe: Recipe, attempts: Callable[[StepSpec], int], fingerprints: Mapping[str, str]) -> None:
        self.recipe, self.fingerprints = recipe, fingerprints
        self._attempts = attempts
        self.steps: dict[str, PlannedStep] = {}

    def add(self, step_name: str, name: str, params: Mapping[str, object], inputs: Mapping[str, str], key: str) -> str:
        """Add a step; returns its key.

        Args:
            step_name: row of the step table.
            name: name of its artifact: a data set, a row of the stage table or a variant.
            params: values of the step's parameter model.
            inputs: input name -> key of the step that makes it.
            key: unique name of the step in the plan.
        """
        step = STEPS[step_name]
        asked = [name for name in step.libraries if name in self.recipe.versions_in_ids]
        if asked:
            params = {**params, "versions": {name: self.fingerprints[f"version.{name}"] for name in asked}}
        spec = StepSpec(
            step=step_name,
            revision=step.revision,
            params=step.params.model_validate(params).model_dump(mode="json"),
            inputs={input_name: self.steps[k].id for input_name, k in inputs.items()},
        )
        attempt = self._attempts(spec)
        ref = ArtifactRef(kind=step.kind, name=name, id=spec.id(attempt))
        resources = self.recipe.resources.get(step_name, step.resources)
        if step_name == "segment" and not teacher_kind(self.recipe.teacher.kind).weights:
            resources = resources.model_copy(update={"gpus": 0.0})  # a GPU would be held and not used
        execution = self.recipe.training.execution(step_name) if step_name in STAGE_STEPS else None
        self.steps[key] = PlannedStep(key, step, spec, ref, attempt, dict(inputs), resources, execution)
        return key

    def dataset(self, name: str) -> Dataset:
        """The recipe's data set of that name."""
        found: Dataset = getattr(self.recipe.data, name)
        return found

    @property
    def guided_datasets(self) -> set[str]:
        """The data sets whose masks are needed by a stage of the recipe's variants."""
        rows = {row for variant in self.recipe.variants for row in VARIANT_ROWS[variant]}
        return {GUIDED_ROWS[row] for row in rows & GUIDED_ROWS.keys()}


def add_inventories(plan: PlanBuilder) -> None:
    """One inventory per data set."""
    for name in DATASETS:
        dataset = plan.dataset(name)
        params = {
            "source": identity(dataset.source),
            "fingerprint": plan.fingerprints[f"data.{name}"],
            "limit": dataset.limit,
        }
        plan.add("inventory", name, params, {}, f"inventory-{name}")


def add_overlap(plan: PlanBuilder) -> None:
    """The comparison of the three data sets. Steps depend on it only if the recipe drops what it finds."""
    plan.add("overlap", "data", {}, {name: f"inventory-{name}" for name in DATASETS}, "overlap")


def add_packs_and_masks(plan: PlanBuilder) -> None:
    """Packs of the two training sets, and the masks of those that guide a stage. Packs do not depend on masks."""
    recipe, fingerprints = plan.recipe, plan.fingerprints
    for name in TRAINING_SETS:
        inventory, dataset = f"inventory-{name}", plan.dataset(name)
        records = {"inventory": inventory} | ({"overlap": "overlap"} if dataset.drop else {})
        common = {"seed": recipe.seed, "drop": dataset.drop}
        pack = {"pack": recipe.pack, "tokenizer": fingerprints[TOKENIZER], **common}
        plan.add("pack", name, pack, records, f"pack-{name}")
        if name not in plan.guided_datasets:
            continue
        chosen = {"size": dataset.subset, "quotas": dataset.quotas, "query": dataset.query, "turns": dataset.turns}
        subset = plan.add("subset", name, chosen | common, records, f"subset-{name}")
        weights = {role: fingerprints[f"weights.{role}"] for role in teacher_kind(recipe.teacher.kind).weights}
        asked = {"teacher": only_used(recipe.teacher), **weights}
        segments = plan.add("segment", name, asked, {"inventory": inventory, "subset": subset}, f"segment-{name}")
        plan.add("masks", name, {"gates": recipe.gates}, {"segments": segments}, f"masks-{name}")


def add_training_and_evaluation(plan: PlanBuilder) -> None:
    """Stages 1 and 2, which all variants share, then stages 3 and 4 and the evaluation of each variant.

    A row of the stage table that two variants share is planned once.
    """
    second = _add_stage(plan, STAGE_STEPS[1], STAGE_STEPS[1], _add_stage(plan, STAGE_STEPS[0], STAGE_STEPS[0], None))
    for variant in plan.recipe.variants:
        parent = second
        for step, row in zip(STAGE_STEPS[2:], VARIANT_ROWS[variant], strict=True):
            parent = row if row in plan.steps else _add_stage(plan, step, row, parent)
        inputs = {"checkpoint": parent, "inventory": "inventory-evaluation"}
        plan.add("evaluate", variant, {"evaluation": plan.recipe.evaluation}, inputs, f"evaluate-{variant}")


def _add_stage(plan: PlanBuilder, step: str, row: str, parent: str | None) -> str:
    recipe, first = plan.recipe, parent is None
    config = recipe.training.stage(step)
    params = {
        "row": row,
        "config": config if STAGES[row].guidance_loss else config.without_guidance(),
        "student": recipe.student if first else None,
        "text": plan.fingerprints["weights.text"] if first else None,
        "vision": plan.fingerprints["weights.vision"] if first else None,
        "seed": recipe.seed,
    }
    inputs = {"pack": "pack-instruct" if step == STAGE_STEPS[-1] else "pack-pretrain"}
    if parent is not None:
        inputs["parent"] = parent
    if row in GUIDED_ROWS:
        inputs["masks"] = f"masks-{GUIDED_ROWS[row]}"
    return plan.add(step, row, params, inputs, row)


def add_report(plan: PlanBuilder) -> None:
    """The report reads every other artifact."""
    everything = {f"{step.step.kind}/{step.key}": step.key for step in plan.steps.values()}
    recipe = plan.recipe
    plan.add("report", recipe.name, {"recipe": recipe.name, "variants": recipe.variants}, everything, "report")


PARTS: tuple[Callable[[PlanBuilder], None], ...] = (
    add_inventories,
    add_overlap,
    add_packs_and_masks,
    add_training_and_evaluation,
    add_report,
)
"""The parts of a plan, in order. A new step is added in one of them, or as a new part."""


def plan(recipe: Recipe, attempts: Callable[[StepSpec], int], fingerprints: Mapping[str, str]) -> Plan:
    """All steps of a recipe's variants, in order. For the arguments see `PlanBuilder`."""
    builder = PlanBuilder(recipe, attempts, fingerprints)
    for add in PARTS:
        add(builder)
    return Plan(builder.steps.values())


def mask_recipe(recipe: Recipe, dataset: str) -> Recipe:
    """The recipe with one variant, whose plan includes the masks of `dataset` ('pretrain' or 'instruct')."""
    needs = {"pretrain": "age_vlm", "instruct": "age_vlm_lm"}
    return recipe.override(variants=[needs[dataset]])
