"""The plan: a pure function from a recipe to the steps that make it, every id known before anything runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model.errors import ConfigError
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.recipe import Dataset, Recipe, Resources
from pipeline.sources.config import identity
from pipeline.steps.table import STEPS, Step

# Which rows of the stage table each variant goes through after stages 1 and 2 (paper, table 1; DESIGN section 3).
VARIANT_ROWS = {
    "ca_baseline": ("stage3_baseline", "stage4_baseline"),
    "age_vlm": ("stage3", "stage4"),
    "age_vlm_lm": ("stage3", "stage4_lm"),
}
GUIDED_ROWS = {"stage3": "pretrain", "stage4_lm": "instruct"}
DATASETS = ("pretrain", "instruct", "evaluation")


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

    @property
    def id(self) -> str:
        """The id of the artifact that this step makes."""
        return self.ref.id


class Plan(tuple[PlannedStep, ...]):
    """The steps in an order in which each comes after its inputs."""

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
        """Only what is needed for a step (by key), or for every step of that name. Raises ConfigError."""
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


def plan(recipe: Recipe, attempts: Callable[[StepSpec], int], fingerprints: Mapping[str, str]) -> Plan:
    """All steps of a recipe's variants, in order.

    Args:
        recipe: what is to be made.
        attempts: the current attempt of a spec (`ArtifactStore.attempt`; 0 where nothing was forced).
        fingerprints: checksums of raw data and weights (`Fingerprints.recipe`).
    """
    steps: dict[str, PlannedStep] = {}

    def add(step_name: str, name: str, params: Mapping[str, object], key: str = "", **inputs: str) -> str:
        return insert(step_name, name, params, inputs, key)

    def insert(step_name: str, name: str, params: Mapping[str, object], inputs: dict[str, str], key: str = "") -> str:
        step = STEPS[step_name]
        key = key or f"{step_name}-{name}"
        checked = step.params.model_validate(params).model_dump(mode="json")
        spec = StepSpec(
            step=step_name,
            revision=step.revision,
            params=checked,
            inputs={input_name: steps[k].id for input_name, k in inputs.items()},
        )
        attempt = attempts(spec)
        ref = ArtifactRef(kind=step.kind, name=name, id=spec.id(attempt))
        resources = recipe.resources.get(step_name, step.resources)
        steps[key] = PlannedStep(key, step, spec, ref, attempt, dict(inputs), resources)
        return key

    def inventory(name: str) -> str:
        dataset: Dataset = getattr(recipe.data, name)
        params = {
            "source": identity(dataset.source),
            "fingerprint": fingerprints[f"data.{name}"],
            "limit": dataset.limit,
            "seed": recipe.seed,
        }
        return add("inventory", name, params)

    def masks(name: str) -> str:
        dataset: Dataset = getattr(recipe.data, name)
        chosen = {"size": dataset.subset, "query": dataset.query, "turns": dataset.turns, "seed": recipe.seed}
        teachers = {"florence": fingerprints["weights.florence"], "sam": fingerprints["weights.sam"]}
        subset = add("subset", name, chosen, inventory=f"inventory-{name}")
        asked = {"teacher": recipe.teacher, **teachers}
        segments = add("segment", name, asked, inventory=f"inventory-{name}", subset=subset)
        return add("masks", name, {"gates": recipe.gates}, segments=segments)

    def pack(name: str) -> str:
        params = {
            "pack": recipe.pack,
            "tokenizer": fingerprints["weights.text"],
            "seed": recipe.seed,
        }
        return add("pack", name, params, inventory=f"inventory-{name}")

    def stage(row: str, parent: str | None) -> str:
        number = row[: len("stage1")]
        first = parent is None
        params = {
            "row": row,
            "config": recipe.training.stage(number),
            "student": recipe.student if first else None,
            "text": fingerprints["weights.text"] if first else None,
            "vision": fingerprints["weights.vision"] if first else None,
            "seed": recipe.seed,
        }
        inputs = {"pack": "pack-instruct" if number == "stage4" else "pack-pretrain"}
        if parent is not None:
            inputs["parent"] = parent
        if row in GUIDED_ROWS:
            inputs["masks"] = f"masks-{GUIDED_ROWS[row]}"
        return insert(number, row, params, inputs, key=row)

    rows = [VARIANT_ROWS[variant] for variant in recipe.variants]
    guided = {GUIDED_ROWS[row] for pair in rows for row in pair if row in GUIDED_ROWS}
    for name in DATASETS:
        inventory(name)
    for name in ("pretrain", "instruct"):
        pack(name)
        if name in guided:
            masks(name)
    second = stage("stage2", stage("stage1", None))
    final = {}
    for variant, (third_row, fourth_row) in zip(recipe.variants, rows, strict=True):
        third = third_row if third_row in steps else stage(third_row, second)
        final[variant] = stage(fourth_row, third)
        add(
            "evaluate",
            variant,
            {"evaluation": recipe.evaluation},
            checkpoint=final[variant],
            inventory="inventory-evaluation",
        )
    everything = {f"{s.step.kind}/{s.key}": s.key for s in steps.values()}
    insert("report", recipe.name, {"recipe": recipe.name, "variants": recipe.variants}, everything, key="report")
    return Plan(steps.values())


def mask_recipe(recipe: Recipe, dataset: str) -> Recipe:
    """The recipe with a variant whose plan holds the masks of `dataset` ('pretrain' or 'instruct')."""
    needs = {"pretrain": "age_vlm", "instruct": "age_vlm_lm"}
    return recipe.override(variants=[needs[dataset]])
