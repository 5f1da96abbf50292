"""From a recipe to the final plan of a flow run: fingerprints and forced attempts."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.run.run_file import RunFile
from flows.run.settings import Settings, git_commit
from model.errors import ConfigError
from pipeline.artifacts.removal import wait_for_removal
from pipeline.artifacts.spec import StepSpec
from pipeline.artifacts.store import ArtifactStore
from pipeline.compute import hub
from pipeline.plan.costs.storage import expected_storage
from pipeline.plan.fingerprints import Fingerprints, outside_names
from pipeline.plan.job import JobSpec, job_of
from pipeline.plan.locations import Locations, locations_of
from pipeline.plan.planner import Plan, PlannedStep, plan
from pipeline.plan.recipe import Recipe

Planner = Callable[[Callable[[StepSpec], int]], Plan]
"""Makes the plan, given the current attempt of each spec."""


@dataclass(frozen=True)
class Prepared:
    """The final plan of a flow run, and what its jobs are given beside their step."""

    recipe: str
    plan: Plan
    locations: Locations
    store: ArtifactStore
    git_commit: str | None
    command: dict[str, Any] | None = None
    """The command that started the run: 'deployment', 'parameters' and 'recipe'; the report prints it."""

    storage: Mapping[str, int] = field(default_factory=dict)
    """Step key -> bytes that it is expected to write to the store, where that is known."""

    def job(self, step: PlannedStep) -> JobSpec:
        """The job of a step."""
        job = job_of(step, self.plan, self.locations, self.git_commit, self.command)
        return job.model_copy(update={"writes": self.storage.get(step.key)})


def planner(recipe: Recipe, settings: Settings, until: str | None = None) -> Planner:
    """The plan of a recipe, cut after `until`. The raw data and weights that it needs are fingerprinted once, here.

    Raises ConfigError or DataError if `until` is not in the plan, or if data or weights that it needs are wrong.
    """
    fingerprints = Fingerprints(settings.scratch).recipe(recipe, needed(recipe, until))

    def make(attempts: Callable[[StepSpec], int]) -> Plan:
        whole = plan(recipe, attempts, fingerprints)
        return whole if until is None else whole.until(until)

    return make


def needed(recipe: Recipe, until: str | None) -> set[str]:
    """Names of the data and weights that the plan up to `until` uses: masks can be made without Llama's weights."""
    names = outside_names(recipe)
    draft = plan(recipe, lambda _: 0, {name: name for name in names})
    steps = draft if until is None else draft.until(until)
    return {value for step in steps for value in step.spec.params.values() if isinstance(value, str)} & set(names)


def prepare(
    recipe: Recipe,
    settings: Settings,
    make_plan: Planner,
    force: Iterable[str],
    run: RunFile,
    command: dict[str, Any] | None = None,
) -> Prepared:
    """The final plan: forced steps have their new attempt, and the run file knows every step.

    Hub weights that its unfinished steps use are looked at: a plan downloads nothing, and a run should not fail after
    hours. Raises ConfigError if they are wrong or out of reach, or if `force` names a step that the plan lacks.
    """
    store = ArtifactStore(settings.store)
    wait_for_removal(store, lambda text: print(text, flush=True))  # the run file is written: see its module
    final = force_attempts(store, make_plan, force, run)
    run.set_plan(final)
    used = [value for step in final if store.get(step.ref) is None for value in step.spec.params.values()]
    for role, name in recipe.weights:
        if hub.is_hub_name(name) and name in used:
            hub.look(role, name)
    return Prepared(
        recipe=recipe.name,
        plan=final,
        locations=locations_of(recipe, settings.store, str(settings.scratch)),
        store=store,
        git_commit=git_commit(settings.repo),
        command=command,
        storage=expected_storage(recipe, final, store),
    )


def force_attempts(store: ArtifactStore, make_plan: Planner, force: Iterable[str], run: RunFile) -> Plan:
    """Give each forced step a new attempt, in plan order: an attempt changes the ids after it. Returns the new plan.

    A step whose current attempt is unfinished keeps it: that attempt is the fresh artifact that forcing asks for. So a
    forced run that was killed continues instead of starting once more. The run file records an attempt before the
    store does, so that a retry of the same flow run forces nothing twice.

    If two flow runs force a step at once, both promise the attempt after the one that they saw, and share it: it is
    issued after both asked, so it is fresh for both, and the second run joins the job of the first.
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
        if step.attempt < promised:
            store.reach_attempt(step.spec, promised)
        current = make_plan(store.attempt)
    return current
