"""Where a run comes from: the recipe of its name that ships with the project, what was typed beside it, and what else.

The parameters in the artifacts are compared with those that the shipped recipe, with the same flow parameters, plans.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model.errors import ConfigError
from pipeline.masks.config import MaskGates
from pipeline.plan import plan
from pipeline.recipe import Recipe, available, load_recipe
from pipeline.report.collect import Run, StepView

# Parameters of the flow that belong to the teachers; the others of mask generation are the gates.
TEACHER_PARAMETERS = ("prompt", "sam_prompt", "beams", "max_new_tokens")
# Where a step's parameter stands in a recipe. {name}: data set; {step}: stage1..stage4.
PLACES = {
    "source": "data.{name}.source",
    "limit": "data.{name}.limit",
    "size": "data.{name}.subset",
    "query": "data.{name}.query",
    "turns": "data.{name}.turns",
    "config": "training.{step}",
}
# Parameters that hold a checksum of something outside, and what that is.
CHECKSUMS = {
    ("inventory", "fingerprint"): "data.{name}",
    ("segment", "florence"): "weights.florence",
    ("segment", "sam"): "weights.sam",
    ("pack", "tokenizer"): "weights.text",
    ("stage1", "text"): "weights.text",
    ("stage1", "vision"): "weights.vision",
}
MISSING = object()


@dataclass(frozen=True)
class Origin:
    """How to make a run again. `typed`: flow parameters beside the recipe's name."""

    shipped: bool
    """Whether the recipe of that name that ships with the project, with `typed`, is this run's."""
    typed: dict[str, Any]
    differences: tuple[str, ...]
    """What sets it apart from the shipped recipe of its name and no flow parameter can say; empty if there is none."""
    outside: dict[str, str]
    """Data and weights that neither ship with the project nor are named by a commit -> checksum."""


def origin_of(run: Run, miniature_weights: Mapping[str, str]) -> Origin:
    """Compare a run with the recipe that ships under its name.

    `miniature_weights`: role -> checksum of the weights that ship with the project, as far as they are there.
    """
    recipe = shipped(run.recipe)
    ours = {f"data.{view.artifact.ref.name}" for view in run.of_kind("inventory") if _rendered(view)}
    outside = {
        place: checksum
        for place, checksum in checksums(run).items()
        if place not in ours and checksum not in miniature_weights.values() and not checksum.startswith("hub:")
    }
    if recipe is None:
        return Origin(False, _all_typed(run), (), outside)
    typed = _typed_beside(run, recipe)
    differences = tuple(_differences(run, _with(recipe, run, typed), miniature_weights))
    if differences:
        return Origin(False, _all_typed(run), differences, outside)
    variants = {} if recipe.variants == run.variants else {"variants": list(run.variants)}
    return Origin(True, variants | typed, (), outside)


def shipped(name: str) -> Recipe | None:
    """The recipe of that name that ships with this code, None if there is none that can be read."""
    if name not in available():
        return None
    try:
        return load_recipe(name)
    except ConfigError:
        return None  # the page still tells every parameter; only the shortest command cannot be worked out


def checksums(run: Run) -> dict[str, str]:
    """What came from outside the run, as 'data.NAME' and 'weights.ROLE', and its checksum."""
    return {
        place.format(name=view.artifact.ref.name): str(view.params[field])
        for view in run.steps
        for (step, field), place in CHECKSUMS.items()
        if view.step == step and view.params.get(field)
    }


def _rendered(view: StepView) -> bool:
    return (view.params.get("source") or {}).get("kind") == "miniature"


def _flow_parameters(run: Run) -> dict[str, Any]:
    """Every flow parameter of mask generation, and the limit if it is one for all data sets, as the artifacts say."""
    found: dict[str, Any] = {}
    for view in run.steps:
        for field, names in (("gates", tuple(MaskGates.model_fields)), ("teacher", TEACHER_PARAMETERS)):
            used = view.params.get(field) or {}
            found |= {name: used[name] for name in names if name in used}
    limits = {view.params["limit"] for view in run.steps if "limit" in view.params}
    if len(limits) == 1 and None not in limits:
        found["limit"] = limits.pop()
    return found


def _all_typed(run: Run) -> dict[str, Any]:
    """All that a flow can be told, so that nothing depends on what stands in a recipe's file or was typed beside it."""
    return {"variants": list(run.variants)} | _flow_parameters(run)


def _typed_beside(run: Run, recipe: Recipe) -> dict[str, Any]:
    """The flow's parameters whose values in this run are not the recipe's."""
    own = recipe.gates.model_dump(mode="json") | recipe.teacher.model_dump(mode="json")
    typed = {k: v for k, v in _flow_parameters(run).items() if k != "limit" and own.get(k, MISSING) != v}
    limit = _flow_parameters(run).get("limit")
    if limit is not None and any(dataset.limit != limit for _, dataset in recipe.data):
        typed["limit"] = limit
    return typed


def _with(recipe: Recipe, run: Run, typed: Mapping[str, Any]) -> Recipe:
    """The recipe as a flow would have it with these parameters."""
    return recipe.override(
        variants=list(run.variants),
        limit=typed.get("limit"),
        gates={k: v for k, v in typed.items() if k in MaskGates.model_fields},
        teacher={k: v for k, v in typed.items() if k in TEACHER_PARAMETERS},
    )


def _differences(run: Run, recipe: Recipe, miniature_weights: Mapping[str, str]) -> list[str]:
    """Each place of the recipe where the run has another value, once, with both values."""
    outside = {f"data.{name}": "" for name, _ in recipe.data} | {f"weights.{role}": "" for role, _ in recipe.weights}
    expected = {step.key: step.spec.params for step in plan(recipe, lambda spec: 0, outside | checksums(run))}
    found: dict[str, str] = {}
    for view in run.steps:
        for path, mine, theirs in _unequal(view.params, expected.get(view.key, {})):
            place = _place(view, path)
            found.setdefault(place, f"{place} = {_told(mine)} (shipped: {_told(theirs)})")
    known = {role: miniature_weights.get(role, "") for role, name in recipe.weights if name == "miniature"}
    known |= {role: name for role, name in recipe.weights if name.startswith("hub:")}
    for place, checksum in checksums(run).items():
        if known.get(place.removeprefix("weights.")) not in (None, "", checksum):
            found[place] = f"{place} = other weights than '{dict(recipe.weights)[place.removeprefix('weights.')]}'"
    return list(found.values())


def _unequal(mine: Any, theirs: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The leaves at which two nested dictionaries differ."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in dict.fromkeys([*mine, *theirs]):
            inner = f"{path}.{key}" if path else key
            yield from _unequal(mine.get(key, MISSING), theirs.get(key, MISSING), inner)
    elif mine != theirs:
        yield path, mine, theirs


def _place(view: StepView, path: str) -> str:
    """Where a parameter of a step stands in a recipe."""
    head, dot, rest = path.partition(".")
    place = PLACES.get(head, head).format(name=view.artifact.ref.name, step=f"stages.{view.step}")
    return f"{place}{dot}{rest}"


def _told(value: Any) -> str:
    return "not there" if value is MISSING else repr(value) if isinstance(value, str) else str(value)
