"""How to make a run again and look behind its numbers: commands, and the parameters read back from its artifacts."""

import json
import shlex
from typing import Any

import yaml

from model.errors import ConfigError
from pipeline.recipe import Recipe, available, load_recipe
from pipeline.report.collect import Run

# Parameters of the flow that belong to the teachers; the others of mask generation are the gates.
TEACHER_PARAMETERS = ("prompt", "sam_prompt", "beams", "max_new_tokens")


def commands(run: Run, report_id: str) -> list[tuple[str, str]]:
    """What to type, each with what it is for."""
    ends = run.of_kind("evaluation") or run.of_kind("checkpoint") or list(run.steps)
    lines = [(flow_command(run), "the same run; steps whose artifacts exist are not run again")]
    if ends:
        lines.append((f"agevlm show {ends[-1].short_id}", f"what {ends[-1].key} holds and how it was made"))
        lines.append((f"agevlm lineage {ends[-1].short_id}", "from it back to the raw data"))
    lines.append(("agevlm verify --all", "hash every file of every artifact again"))
    trained = run.of_kind("checkpoint")
    if trained:
        ask = f'agevlm ask {trained[-1].short_id} IMAGE "QUESTION" --map map.png'
        lines.append((ask, f"ask {trained[-1].key} yourself"))
    lines.append((f"agevlm show {report_id[:12]}", "this page's own artifact"))
    return lines


def flow_command(run: Run) -> str:
    """The command that starts the flow with what was given beside the recipe: variants, limit, gates, prompt."""
    recipe = shipped(run.recipe)
    given: dict[str, Any] = {"recipe": run.recipe if recipe else f"PATH/OF/{run.recipe}.yaml"}
    if recipe is None or recipe.variants != run.variants:
        given["variants"] = list(run.variants)
    if recipe is not None:
        given |= typed_beside(run, recipe)
    words = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in given.items()]
    return " ".join(["prefect deployment run agevlm/full-recipe", *(f"-p {shlex.quote(word)}" for word in words)])


def typed_beside(run: Run, recipe: Recipe) -> dict[str, Any]:
    """The flow's parameters whose values in this run are not the recipe's."""
    found: dict[str, Any] = {}
    for view in run.steps:
        params = view.params
        gates, teacher = recipe.gates.model_dump(), recipe.teacher.model_dump()
        found |= {k: v for k, v in params.get("gates", {}).items() if k in gates and gates[k] != v}
        used = params.get("teacher", {})
        found |= {k: used[k] for k in TEACHER_PARAMETERS if k in used and used[k] != teacher[k]}
        if "limit" in params and params["limit"] != getattr(recipe.data, view.artifact.ref.name).limit:
            found["limit"] = params["limit"]
    return {k: v for k, v in found.items() if v is not None}


def shipped(name: str) -> Recipe | None:
    """The recipe of that name that ships with this code, None if there is none that can be read."""
    if name not in available():
        return None
    try:
        return load_recipe(name)
    except ConfigError:
        return None  # the page still tells every parameter; only the shortest command cannot be worked out


def parameters(run: Run) -> str:
    """All steps' parameters as YAML: what the ids were made from, locations and machines left out."""
    return str(yaml.safe_dump({v.key: v.params for v in run.steps}, sort_keys=False, allow_unicode=True, width=110))
