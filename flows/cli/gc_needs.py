"""The artifacts and files of a store that flow runs, Ray jobs, tags and recipes need: `agevlm gc` must keep them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flows.cli.surroundings import local_stack, offline_settings
from flows.run.run_file import OPEN
from model.errors import AgevlmError, ConfigError
from pipeline.artifacts import filesystem
from pipeline.artifacts.gc import Needs
from pipeline.artifacts.spec import parsed, short

if TYPE_CHECKING:
    from pipeline.artifacts.contents import Thing
    from pipeline.artifacts.spec import StepSpec
    from pipeline.artifacts.store import ArtifactStore

RUN_FILE = re.compile(r"runs/[^/]+\.json")
READ_AT_ONCE = 200
"""Files that are in memory at a time."""
ALIVE = frozenset({"PENDING", "RUNNING"})
"""Ray's states of a job that is not over."""


@dataclass
class Found:
    """The needs as they are found, and notes for people about what could not be known."""

    roots: dict[str, str] = field(default_factory=dict)
    open_runs: set[str] = field(default_factory=set)
    planning: list[str] = field(default_factory=list)
    """Open runs that have no plan yet or a damaged file, so that nobody knows what they need."""
    jobs: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def needs(self) -> Needs:
        """The needs for the rules."""
        return Needs(dict(self.roots), frozenset(self.open_runs), frozenset(self.jobs))


def needs_of(
    store: "ArtifactStore", things: Sequence["Thing"], recipes: Sequence[str], jobs_since: float = 0.0
) -> Found:
    """All needs: of tags, of open runs among the run files, of Ray jobs, and of recipes.

    Args:
        store: the store.
        things: its contents.
        recipes: names or files of recipes; those that ship with the project if empty.
        jobs_since: jobs that were submitted before this time, seconds since 1970, need nothing unless they are alive.

    Raises ConfigError if a given recipe cannot be planned; a shipped one becomes a note.
    """
    found = Found()
    # The first reason stays, so the strongest come first.
    _runs(store, [thing for thing in things if thing.what == "run file" and RUN_FILE.fullmatch(thing.path)], found)
    _jobs(store, found)
    for tag in store.tags.all():
        if tag.target is not None:
            found.roots.setdefault(tag.target.id, f"tag '{tag.name}'")
    _recipes(store, recipes, found)
    _unfinished(store, things, jobs_since, found)
    return found


def _runs(store: "ArtifactStore", files: Sequence["Thing"], found: Found) -> None:
    """Open runs. A file that another version wrote is read as far as it can be; one that is cut off counts as open."""
    for path, record in _json_files(store, files):
        name = path.rpartition("/")[2].removesuffix(".json")
        state, steps = (record.get("state"), record.get("steps")) if isinstance(record, dict) else (None, None)
        if isinstance(state, str) and state not in OPEN:
            continue
        ids = [step.get("id") for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
        found.open_runs.add(name)
        if not ids or not isinstance(state, str):
            found.planning.append(name)
        for id in ids:
            if isinstance(id, str):
                found.roots.setdefault(id, f"run {name[:8]} is {state}")


def _json_files(store: "ArtifactStore", files: Sequence["Thing"]) -> Iterator[tuple[str, Any]]:
    """Path and value of each file; None if it is no JSON."""
    paths = [store.join(thing.path) for thing in files]
    for start in range(0, len(paths), READ_AT_ONCE):
        for path, content in filesystem.read_each(store.fs, paths[start : start + READ_AT_ONCE]).items():
            try:
                value = parsed(content)
            except ValueError:
                value = None
            yield path, value


def _unfinished(store: "ArtifactStore", things: Sequence["Thing"], since: float, found: Found) -> None:
    """The inputs of jobs that made nothing yet. They may run on a cluster that this machine does not know, or be
    started again: both read their inputs."""
    made = {thing.id for thing in things if thing.what == "artifact"}
    jobs = [thing for thing in things if thing.what == "job file" and thing.changed >= since]
    for path, job in _json_files(store, jobs):
        if not isinstance(job, dict) or _id(job.get("ref")) in made:
            continue
        inputs = job.get("inputs")
        for ref in inputs.values() if isinstance(inputs, dict) else ():
            name = path.rpartition("/")[2].removesuffix(".json")
            if id := _id(ref):
                found.roots.setdefault(id, f"job {name}, which made nothing yet, reads it")


def _id(ref: Any) -> str:
    return str(ref.get("id", "")) if isinstance(ref, dict) else ""


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
        ids = [metadata.get("artifact")] if isinstance(metadata, dict) else []
        try:
            spec = store.read_json(f"jobs/{name}.json") if name and "/" not in name else None
            ids += [_id(ref) for ref in (spec or {}).get("inputs", {}).values()]
        except (ValueError, AttributeError):
            found.notes.append(f"jobs/{name}.json is damaged: the inputs of this living job are not known")
        for id in ids:
            if id and isinstance(id, str):
                found.roots.setdefault(id, f"Ray job {name} is alive")


def _recipes(store: "ArtifactStore", recipes: Sequence[str], found: Found) -> None:
    from flows.run.preparation import planner
    from pipeline.plan.recipe import available, load_recipe

    settings, unread = offline_settings(), list[Exception]()

    def attempt(spec: "StepSpec") -> int:
        try:
            return store.attempt(spec)
        except (AgevlmError, OSError) as error:
            unread.append(error)
            raise

    for name in recipes or available():
        try:
            plan = planner(load_recipe(name), settings)(attempt)
        except (AgevlmError, OSError) as error:
            if recipes or unread:  # it can be planned, but the store does not tell which attempts it has
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
            f"flow run {names} is being planned, or its file is damaged, so what it needs is not known; run gc again "
            "in a minute, or remove its file below 'runs/' if its process died"
        )
