"""What flow runs, Ray jobs, tags and recipes need of a store: what `agevlm gc` must keep."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flows.cli.surroundings import local_stack, offline_settings
from flows.run.run_file import OPEN, RunRecord
from model.errors import AgevlmError, ConfigError
from pipeline.artifacts import filesystem
from pipeline.artifacts.gc import Needs
from pipeline.artifacts.spec import short
from pipeline.config import validate

if TYPE_CHECKING:
    from pipeline.artifacts.contents import Thing
    from pipeline.artifacts.store import ArtifactStore

READ_AT_ONCE = 200
"""Run files that are in memory at a time."""
ALIVE = frozenset({"PENDING", "RUNNING"})
"""Ray's states of a job that is not over."""


@dataclass
class Found:
    """The needs as they are found, and notes for people about what could not be known."""

    roots: dict[str, str] = field(default_factory=dict)
    open_runs: set[str] = field(default_factory=set)
    planning: list[str] = field(default_factory=list)
    """Open runs that have no plan yet, so that nobody knows what they need."""
    jobs: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def needs(self) -> Needs:
        """The needs for the rules."""
        return Needs(dict(self.roots), frozenset(self.open_runs), frozenset(self.jobs))


def needs_of(store: "ArtifactStore", things: Iterable["Thing"], recipes: Sequence[str]) -> Found:
    """All needs: of tags, of open runs among the run files, of living Ray jobs, and of recipes.

    Args:
        store: the store.
        things: its contents.
        recipes: names or files of recipes; those that ship with the project if empty.

    Raises ConfigError if a given recipe cannot be planned; a shipped one becomes a note.
    """
    found = Found()
    # The first reason stays, so the strongest come first.
    _runs(store, [thing for thing in things if thing.what == "run file" and thing.path.endswith(".json")], found)
    _jobs(store, found)
    for tag in store.tags.all():
        if tag.target is not None:
            found.roots.setdefault(tag.target.id, f"tag '{tag.name}'")
    _recipes(store, recipes, found)
    return found


def _runs(store: "ArtifactStore", files: Sequence["Thing"], found: Found) -> None:
    for record in _records(store, files, found):
        if record.state not in OPEN:
            continue
        found.open_runs.add(record.flow_run_id)
        if not record.steps:
            found.planning.append(record.flow_run_id)
        for step in record.steps:
            found.roots.setdefault(step.id, f"run {record.flow_run_id[:8]} is {record.state}")


def _records(store: "ArtifactStore", files: Sequence["Thing"], found: Found) -> Iterator[RunRecord]:
    import json

    paths = [store.join(thing.path) for thing in files]
    for start in range(0, len(paths), READ_AT_ONCE):
        for path, content in filesystem.read_each(store.fs, paths[start : start + READ_AT_ONCE]).items():
            try:
                yield validate(RunRecord, json.loads(content), path)
            except (ConfigError, ValueError):
                found.notes.append(f"run file {path} is damaged or of another version: it counts as over")


def _jobs(store: "ArtifactStore", found: Found) -> None:
    """Living Ray jobs of the local stack: the artifacts that they make, and their inputs."""
    from infra.local.roles.ray import ray_api

    stack = local_stack()
    state = stack.file.load()
    if state is None or "ray_dashboard" not in state.ports:
        return
    jobs: Any = ray_api(stack.folders, state).answers("/api/jobs/")
    if not isinstance(jobs, list):
        found.notes.append(
            "the stack's Ray does not answer: its jobs are not known; run files and ages still protect them"
        )
        return
    for job in jobs:
        if job.get("status") not in ALIVE:
            continue
        name, metadata = str(job.get("submission_id") or ""), job.get("metadata") or {}
        found.jobs.add(name)
        spec = store.read_json(f"jobs/{name}.json") if name and "/" not in name else None
        inputs = (spec or {}).get("inputs", {}).values()
        for id in (metadata.get("artifact"), *(ref.get("id") for ref in inputs)):
            if isinstance(id, str):
                found.roots.setdefault(id, f"Ray job {name} is alive")


def _recipes(store: "ArtifactStore", recipes: Sequence[str], found: Found) -> None:
    from flows.run.preparation import planner
    from pipeline.plan.recipe import available, load_recipe

    settings = offline_settings()
    for name in recipes or available():
        try:
            plan = planner(load_recipe(name), settings)(store.attempt)
        except AgevlmError as error:
            if recipes:
                raise
            found.notes.append(f"recipe {name} cannot be planned here, so it keeps nothing ({error})")
            continue
        for step in plan:
            found.roots.setdefault(step.id, f"recipe {name} ({step.key})")


def refuse_planning(found: Found) -> None:
    """Raise ConfigError if an open run has no plan yet: nobody knows what it needs."""
    if found.planning:
        names = ", ".join(map(short, found.planning))
        raise ConfigError(
            f"flow run {names} is being planned, so what it needs is not known yet; run gc again in a minute, or "
            "remove its file below 'runs/' if its process died"
        )
