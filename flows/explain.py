"""Why a step of a plan runs or does not: what differs from the artifact that is there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flows.preparation import stale_steps, to_check
from model.errors import ArtifactError
from pipeline.artifacts.spec import StepSpec, short
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.plan import Plan, PlannedStep

Condition = Literal["cached", "to check", "to run", "stale", "blocked"]
SHOWN = 3
"""Differences that are named; the rest are counted."""


@dataclass(frozen=True)
class Verdict:
    """What would become of one step if the plan ran now."""

    step: PlannedStep
    condition: Condition
    why: str


def verdicts(plan: Plan, store: ArtifactStore) -> list[Verdict]:
    """One verdict for each step of a plan, in its order."""
    present = {step.key: artifact for step in plan if (artifact := store.get(step.ref)) is not None}
    stale, unknown = stale_steps(plan, present), to_check(plan, present)
    latest = _latest(store)
    blocked: dict[str, str] = {key: key for key in stale if key not in unknown}
    found = []
    for step in plan:
        artifact = present.get(step.key)
        culprit = next((blocked[key] for key in step.inputs.values() if key in blocked), None)
        if step.key in unknown and culprit is None:
            found.append(Verdict(step, "to check", "it stays if its input, made again, comes out the same"))
        elif step.key in blocked and artifact is not None:
            found.append(Verdict(step, "stale", stale[step.key]))
        elif culprit is not None:
            blocked[step.key] = culprit
            found.append(Verdict(step, "blocked", f"it needs {culprit}, which is stale"))
        elif artifact is not None:
            attempt = f", attempt {artifact.manifest.attempt}" if artifact.manifest.attempt else ""
            found.append(Verdict(step, "cached", f"made {artifact.manifest.provenance.started[:16]}{attempt}"))
        else:
            found.append(Verdict(step, "to run", _why(step, latest.get((step.ref.kind, step.ref.name)), plan)))
    return found


def _latest(store: ArtifactStore) -> dict[tuple[str, str], Artifact]:
    newest: dict[tuple[str, str], Artifact] = {}
    damaged: list[ArtifactError] = []  # cannot be compared with; a damaged artifact of the plan itself is an error
    for artifact in store.artifacts(damaged):  # by time of making within a kind and name
        newest[artifact.ref.kind, artifact.ref.name] = artifact
    return newest


def _why(step: PlannedStep, other: Artifact | None, plan: Plan) -> str:
    if other is None:
        return "never made"
    if other.manifest.spec.hash == step.spec.hash:
        return f"attempt {step.attempt} was asked for; attempt {other.manifest.attempt} is {short(other.ref.id)}"
    changes = differences(other.manifest.spec, step.spec)
    more = f", and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return f"unlike {short(other.ref.id)}: {', '.join(changes[:SHOWN])}{more}"


def differences(old: StepSpec, new: StepSpec) -> list[str]:
    """What differs between two specs of one step, in words: parameters with both values, then revision, then inputs."""
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
