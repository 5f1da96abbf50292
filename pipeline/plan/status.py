"""The state of a plan in a store: which steps are cached, to run, or stale, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from model.errors import ArtifactError
from pipeline.artifacts.lineage import parent_problem
from pipeline.artifacts.spec import StepSpec, short
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.artifacts.versions import library_versions, other_versions
from pipeline.plan.planner import Plan, PlannedStep

Condition = Literal["cached", "to check", "to run", "stale", "blocked"]
SHOWN = 3
"""Number of differences that are named; the rest are counted."""


@dataclass(frozen=True)
class Verdict:
    """The state of one step, and the reason for it: what would happen if the plan ran now."""

    step: PlannedStep
    condition: Condition
    why: str
    versions: str = ""
    """The versions of libraries that decide its result, where the artifact has others: 'made with ..., now ...'."""


def existing(plan: Plan, store: ArtifactStore) -> dict[str, Artifact]:
    """The artifacts of a plan that exist, by step key."""
    return {step.key: artifact for step in plan if (artifact := store.get(step.ref)) is not None}


def stale_steps(plan: Plan, artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """Existing artifacts that are stale -> the reason: an input is gone, was replaced since it was read, or is stale.

    The rule for one input is lineage.parent_problem. Plans are in order, so it is enough to look at direct inputs.
    """
    stale: dict[str, str] = {}
    for step in plan:
        artifact = artifacts.get(step.key)
        if artifact is None:
            continue
        for name, key in step.inputs.items():
            problem = parent_problem(artifact.manifest.parents.get(name), artifacts.get(key))
            if not problem and key in stale:
                problem = f"is stale: {stale[key]}"
            if problem:
                stale[step.key] = f"its input {plan[key].ref} {problem}"
                break
    return stale


def to_check(plan: Plan, artifacts: Mapping[str, Artifact]) -> set[str]:
    """Existing artifacts with a missing ancestor. They are stale only if that is made again with other content."""
    waiting: set[str] = set()
    for step in plan:
        if step.key in artifacts and any(key in waiting or key not in artifacts for key in step.inputs.values()):
            waiting.add(step.key)
    return waiting


def verdicts(plan: Plan, store: ArtifactStore) -> list[Verdict]:
    """One verdict for each step of a plan, in its order."""
    present = existing(plan, store)
    stale, unknown = stale_steps(plan, present), to_check(plan, present)
    latest = _latest(store)
    blocked: dict[str, str] = {key: key for key in stale if key not in unknown}
    installed = library_versions()
    found = []
    for step in plan:
        artifact = present.get(step.key)
        culprit = next((blocked[key] for key in step.inputs.values() if key in blocked), None)
        if step.key in unknown and culprit is None:
            found.append(Verdict(step, "to check", "kept if its missing input is made again with the same content"))
        elif step.key in blocked and artifact is not None:
            found.append(Verdict(step, "stale", stale[step.key]))
        elif culprit is not None:
            blocked[step.key] = culprit
            found.append(Verdict(step, "blocked", f"it needs {culprit}, which is stale"))
        elif artifact is not None:
            attempt = f", attempt {artifact.manifest.attempt}" if artifact.manifest.attempt else ""
            told = artifact.manifest.provenance
            others = other_versions(told.versions, installed, step.step.libraries)
            found.append(Verdict(step, "cached", f"made {told.started[:16]}{attempt}", others))
        else:
            found.append(Verdict(step, "to run", _reason_to_run(step, latest.get((step.ref.kind, step.ref.name)))))
    return found


def _latest(store: ArtifactStore) -> dict[tuple[str, str], Artifact]:
    newest: dict[tuple[str, str], Artifact] = {}
    damaged: list[ArtifactError] = []  # skipped here; store.get raises for a damaged artifact of the plan itself
    for artifact in store.artifacts(damaged):  # by time of making within a kind and name
        newest[artifact.ref.kind, artifact.ref.name] = artifact
    return newest


def _reason_to_run(step: PlannedStep, other: Artifact | None) -> str:
    """The difference between a step and the newest artifact of its kind and name."""
    if other is None:
        return "never made"
    if other.manifest.spec.hash == step.spec.hash:
        return f"attempt {step.attempt} was asked for; attempt {other.manifest.attempt} is {short(other.ref.id)}"
    changes = differences(other.manifest.spec, step.spec)
    more = f", and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return f"unlike {short(other.ref.id)}: {', '.join(changes[:SHOWN])}{more}"


def differences(old: StepSpec, new: StepSpec) -> list[str]:
    """The differences of two specs of one step, in words: parameters with both values, then revision, then inputs."""
    found = [
        f"{name} {_text(a)} -> {_text(b)}" for name, (a, b) in _changed(_flat(old.params), _flat(new.params)).items()
    ]
    if old.revision != new.revision:
        found.append(f"revision {old.revision} -> {new.revision}")
    return found + [f"input {name}" for name in _changed(old.inputs, new.inputs)]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat.update(_flat(item, f"{prefix}{name}."))
        else:
            flat[prefix + name] = item
    return flat


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(set(old) | set(new))
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _text(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
