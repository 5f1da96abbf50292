"""The section on reproduction: the command that started the run, what it needs, and every parameter."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.artifacts.spec import short
from pipeline.plan.recipe import Weights
from pipeline.report.collect import Run

CHECKSUMS = {"fingerprint": "data.{name}", "tokenizer": "weights.text's tokenizer"} | {
    role: f"weights.{role}" for role in Weights.model_fields
}
"""Parameter that holds a checksum of something from outside -> its place in a recipe; {name} is the data set."""


@dataclass(frozen=True)
class Reproduction:
    """The commands that make a run again and show its parts."""

    commands: list[tuple[str, str]]  # command, its purpose
    notes: list[str]
    recipe: str  # text of the recipe's YAML file; '' if the run was not started by a recorded command
    parameters: str  # of all steps, as YAML: what the ids were made from, without locations and machines
    made_with: dict[str, list[str]]


def reproduction(
    run: Run, command: Mapping[str, Any] | None, report_id: str, miniature_weights: Mapping[str, str]
) -> Reproduction:
    """Build the section.

    command: `JobSpec.command` of the report's job. miniature_weights: role -> checksum of the weights that ship with
    the project.
    """
    notes = []
    if command is None:
        notes.append(
            "This page was made by hand, not by a flow, so no command is recorded. The parameters below are those in "
            "the artifacts."
        )
    if outside := outside_checksums(run, miniature_weights):
        listed = ", ".join(f"{place} {short(checksum)}" for place, checksum in outside.items())
        notes.append(
            f"The same run needs the same data and weights at the recipe's locations: {listed} (the first digits of "
            "their checksums). If they are the same, 'agevlm plan' calls every step cached."
        )
    return Reproduction(
        commands=_commands(run, command, report_id),
        notes=notes,
        recipe=str(command.get("recipe", "")) if command else "",
        parameters=str(
            yaml.safe_dump({v.key: v.params for v in run.steps}, sort_keys=False, allow_unicode=True, width=110)
        ),
        made_with=made_with(run),
    )


def flow_command(command: Mapping[str, Any]) -> str:
    """The shell command that starts the deployment with the same parameters."""
    words = [f"{name}={_value(value)}" for name, value in command["parameters"].items()]
    return " ".join(["prefect deployment run", command["deployment"], *(f"-p {shlex.quote(word)}" for word in words)])


def made_with(run: Run) -> dict[str, list[str]]:
    """Name -> its different values over the steps of the run."""
    found: dict[str, set[str]] = {}
    for told in (view.manifest.provenance for view in run.steps):
        values = {"git commit": told.git_commit or "not recorded", "device": told.device, "host": told.host}
        for name, value in (values | told.versions).items():
            found.setdefault(name, set()).add(value)
    return {name: sorted(values) for name, values in found.items()}


def outside_checksums(run: Run, miniature_weights: Mapping[str, str]) -> dict[str, str]:
    """Place in a recipe -> checksum of data and weights that neither ship with the project nor are hub commits."""
    rendered = {f"data.{name}" for name, kind in run.source_kinds.items() if kind == "miniature"}
    found = {
        place.format(name=view.name): str(view.params[field])
        for view in run.steps
        for field, place in CHECKSUMS.items()
        if view.params.get(field)
    }
    return {
        place: checksum
        for place, checksum in found.items()
        if place not in rendered and checksum not in miniature_weights.values() and not checksum.startswith("hub:")
    }


def _value(value: Any) -> str:
    """A value as Prefect's -p reads it: JSON; a plain word needs no quotes unless it is JSON itself."""
    quoted = json.dumps(value)
    if not isinstance(value, str) or quoted != f'"{value}"' or not value or value[0] in "{[":
        return quoted
    try:
        json.loads(value)
    except ValueError:
        return value
    return quoted


def _commands(run: Run, command: Mapping[str, Any] | None, report_id: str) -> list[tuple[str, str]]:
    lines = []
    if command is not None:
        forced = "'force' makes these steps again"
        cached = forced if command["parameters"].get("force") else "steps whose artifacts exist are not run again"
        lines.append((flow_command(command), f"started this run; {cached}"))
    if ends := run.of_kind("evaluation") or run.of_kind("checkpoint") or list(run.steps):
        last = ends[-1]
        lines.append((f"agevlm show {short(last.id)}", f"what {last.key} holds and how it was made"))
        lines.append((f"agevlm lineage {short(last.id)}", "from it back to the raw data"))
    lines.append(("agevlm verify --all", "hash every file of every artifact again"))
    if trained := run.of_kind("checkpoint"):
        ask = f'agevlm ask {short(trained[-1].id)} IMAGE "QUESTION" --map map.png'
        lines.append((ask, f"ask {trained[-1].key} a question"))
    return [*lines, (f"agevlm show {short(report_id)}", "this page's own artifact")]
