"""From a recipe to the final plan of a flow run: fingerprints, forced attempts, and what exists already."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.run_state import RunFile
from flows.settings import Settings, git_commit
from model.errors import ConfigError
from pipeline.artifacts.spec import StepSpec
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.fingerprints import Fingerprints, cache_folder, outside_names
from pipeline.job import JobSpec, job_of
from pipeline.plan import Plan, PlannedStep, plan
from pipeline.recipe import Recipe
from pipeline.site import Site, site_of

Planner = Callable[[Callable[[StepSpec], int]], Plan]
"""Makes the plan, given the current attempt of each spec."""


@dataclass(frozen=True)
class Prepared:
    """Everything that a walk needs to know before it starts."""

    recipe: str
    plan: Plan
    site: Site
    store: ArtifactStore
    git_commit: str | None

    def job(self, step: PlannedStep) -> JobSpec:
        """What the step's Ray job is given."""
        return job_of(step, self.plan, self.site, self.git_commit)


def planner(recipe: Recipe, settings: Settings, until: str | None = None) -> Planner:
    """The plan of a recipe, cut after `until`; what it needs of raw data and weights is fingerprinted once, here.

    Raises ConfigError or DataError if `until` is wrong, or data or weights that are needed.
    """
    fingerprints = Fingerprints(fingerprint_cache(settings)).recipe(recipe, needed(recipe, until))

    def make(attempts: Callable[[StepSpec], int]) -> Plan:
        whole = plan(recipe, attempts, fingerprints)
        return whole if until is None else whole.until(until)

    return make


def needed(recipe: Recipe, until: str | None) -> set[str]:
    """What the plan up to `until` takes from outside: masks can be made where the weights of Llama are not."""
    names = outside_names(recipe)
    draft = plan(recipe, lambda _: 0, {name: name for name in names})
    steps = draft if until is None else draft.until(until)
    return {value for step in steps for value in step.spec.params.values() if isinstance(value, str)} & set(names)


def fingerprint_cache(settings: Settings) -> Path:
    """Where checksums of large raw files are remembered."""
    return cache_folder(settings.store, str(settings.scratch))


def prepare(recipe: Recipe, settings: Settings, make_plan: Planner, force: Iterable[str], run: RunFile) -> Prepared:
    """The final plan: forced steps have their new attempt, and the run file knows every step.

    Raises ConfigError if `force` names a step that the plan lacks.
    """
    store = ArtifactStore(settings.store)
    final = force_attempts(store, make_plan, force, run)
    run.set_plan(final)
    return Prepared(
        recipe=recipe.name,
        plan=final,
        site=site_of(recipe, settings.store, str(settings.scratch)),
        store=store,
        git_commit=git_commit(settings.repo),
    )


def force_attempts(store: ArtifactStore, make_plan: Planner, force: Iterable[str], run: RunFile) -> Plan:
    """Give each forced step a new attempt, in plan order, for a new attempt changes what follows. Returns the plan.

    A step whose current attempt is unfinished keeps it: forcing asks for a fresh artifact, and that one is not made
    yet, so that a forced run that was killed continues instead of starting once more. The run file learns of an
    attempt before the store does, so that a retry of the same flow run forces nothing twice.
    """
    current = make_plan(store.attempt)
    wanted = set(force)
    unknown = sorted(wanted - {step.key for step in current})
    if unknown:
        raise ConfigError(
            f"force = '{unknown[0]}': no such step in this plan; steps are {', '.join(step.key for step in current)}"
        )
    for key in [step.key for step in current if step.key in wanted]:
        step = current[key]
        promised = run.record.forced.get(step.spec.hash)
        if promised is None:
            promised = step.attempt + (0 if store.get(step.ref) is None else 1)
            run.update(forced={**run.record.forced, step.spec.hash: promised})
        if store.attempt(step.spec) < promised:
            store.new_attempt(step.spec)
        current = make_plan(store.attempt)
    return current


def existing(prepared: Prepared) -> dict[str, Artifact]:
    """The artifacts of a plan that exist, by step key."""
    found = {step.key: prepared.store.get(step.ref) for step in prepared.plan}
    return {key: artifact for key, artifact in found.items() if artifact is not None}


def stale_steps(plan: Plan, artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """Existing artifacts that are stale -> why: an input is gone, was replaced since it was read, or is stale itself.

    An input that was made again bit by bit was not replaced: what is pinned is its content.
    The same rule as lineage.stale_reason, for a whole plan at once: each step looks at its own inputs only.
    """
    stale: dict[str, str] = {}
    for step in plan:
        artifact = artifacts.get(step.key)
        if artifact is None:
            continue
        for name, key in step.inputs.items():
            parent, pinned = artifacts.get(key), artifact.manifest.parents.get(name)
            if parent is None:
                stale[step.key] = f"its input {plan[key].ref} is gone"
            elif pinned is None or pinned.content_sha256 != parent.manifest.content_sha256:
                stale[step.key] = f"its input {parent.ref} was replaced since it was read"
            elif key in stale:
                stale[step.key] = f"its input {parent.ref} is stale: {stale[key]}"
            else:
                continue
            break
    return stale


def to_check(plan: Plan, artifacts: Mapping[str, Artifact]) -> set[str]:
    """Existing artifacts with an ancestor that is not there: whether they are stale shows once it is made again."""
    waiting: set[str] = set()
    for step in plan:
        if step.key in artifacts and any(key in waiting or key not in artifacts for key in step.inputs.values()):
            waiting.add(step.key)
    return waiting
