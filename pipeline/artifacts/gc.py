"""The rules of `agevlm gc`: what of a store is kept, and why, and what is not needed any more. Nothing is removed here.

Artifacts: kept are the *roots* and everything that they were made from. Roots are: tagged ones; those of recipes, open
runs and living jobs; reports and checkpoints; the newest of each kind and name; and young ones. While the manifest of
one artifact is damaged, nobody knows what it was made from, and all artifacts are kept.
What a killed writer left is kept while a rerun may go on with it, or a living writer may be at it.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from pipeline.artifacts.contents import Thing
from pipeline.artifacts.progress import time_text
from pipeline.artifacts.spec import ArtifactRef, short

DAY = 86_400.0
RESULTS = frozenset({"report", "checkpoint"})
"""Kinds that runs are made for. They cost most to make again, so age alone does not make them garbage."""


@dataclass(frozen=True)
class Rules:
    """The ages of the rules, and the kinds that age alone does not make garbage."""

    older_than: float = 30 * DAY
    """Seconds after which an artifact, a folder of shards or a record of a run may go."""
    grace: float = 1 * DAY
    """Seconds after which files that belong to nothing may go: longer than any writer is silent."""
    kept_kinds: frozenset[str] = RESULTS


@dataclass(frozen=True)
class Needs:
    """The ids that runs, jobs, tags and recipes need."""

    roots: Mapping[str, str] = field(default_factory=dict)
    """Artifact id -> who needs it. Kept with all that it was made from; if it is being made, its files are kept."""
    open_runs: frozenset[str] = frozenset()
    """Ids of flow runs that are not over."""
    jobs: frozenset[str] = frozenset()
    """Submission ids of Ray jobs that are alive."""


@dataclass(frozen=True)
class Verdict:
    """A thing, and why it is kept or may go."""

    thing: Thing
    keep: bool
    why: str


class Judge:
    """Applies the rules to the contents of a store.

    Args:
        things: all of the store, and of the scratch folder.
        needs: tags, recipes, runs and jobs.
        rules: ages and kinds.
        now: seconds since 1970.
    """

    def __init__(self, things: Iterable[Thing], needs: Needs, rules: Rules, now: float | None = None) -> None:
        self.things = list(things)
        self._needs, self._rules, self._now = needs, rules, time.time() if now is None else now
        # By ref: two steps with the same spec make artifacts of one id, with other kinds or names.
        self._artifacts = {self._ref(thing): thing for thing in self.things if thing.what == "artifact"}
        self._made = {ref.id for ref in self._artifacts}
        self._kept = self._kept_artifacts()
        self._busy = dict(needs.roots) | {
            thing.id: f"its step reported progress {self._age_text(thing)} ago"
            for thing in self.things
            if thing.what == "progress" and self._age(thing) < rules.grace and thing.id not in self._made
        }
        kept = [self._artifacts[ref] for ref in self._kept]
        self._kept_jobs = {thing.job: thing for thing in kept if thing.job}
        self._kept_short = {short(thing.id) for thing in kept}

    def verdicts(self) -> Iterator[Verdict]:
        """One verdict for each thing, in the order of the things."""
        for thing in self.things:
            reason = self._reason_to_keep(thing)
            yield Verdict(thing, True, reason) if reason else Verdict(thing, False, self._reason_to_go(thing))

    def _reason_to_keep(self, thing: Thing) -> str:
        if thing.what == "artifact":
            return self._kept.get(self._ref(thing), "")
        if thing.what == "damaged artifact":
            return "its manifest is damaged or of a newer version: 'agevlm verify --all' says what to do"
        if thing.what == "run file":
            return (
                "the run is open" if thing.id in self._needs.open_runs else self._young(thing, self._rules.older_than)
            )
        if thing.what == "job file":
            if thing.id in self._needs.jobs:
                return "the job is alive"
            made = self._kept_jobs.get(thing.id)
            return f"it made {made.ref}" if made else self._young(thing, self._rules.older_than)
        if thing.what == "event files":
            if thing.id in self._kept_short or any(id.startswith(thing.id) for id in self._busy):
                return "its checkpoint is kept"
            return self._young(thing, self._rules.older_than)
        if thing.id in self._busy and thing.id not in self._made:
            return self._busy[thing.id]
        return self._young(thing, self._limit(thing))

    def _limit(self, thing: Thing) -> float:
        """The age, in seconds, from which files that belong to no artifact may go."""
        resumable = thing.what in ("unfinished shards", "work files", "progress") and thing.id not in self._made
        return self._rules.older_than if resumable or thing.what == "cached files" else self._rules.grace

    def _reason_to_go(self, thing: Thing) -> str:
        age = self._age_text(thing)
        if thing.what == "artifact":
            return f"made {age} ago, there is a newer one, and nothing that is kept needs it"
        if thing.what == "unfinished shards":
            return f"no manifest and no rerun for {age}"
        if thing.what == "unfinished files":
            other = "beside the published data" if thing.id in self._made else "no manifest"
            return f"{other}, unchanged for {age}"
        if thing.what == "leftover files":
            return f"no manifest lists them, unchanged for {age}"
        return f"unused for {age}"

    def _kept_artifacts(self) -> dict[ArtifactRef, str]:
        """Ref -> reason, of the roots and then of all that they were made from."""
        kept: dict[ArtifactRef, str] = {}
        newest: dict[tuple[str, str], Thing] = {}
        damaged = next((thing.ref for thing in self.things if thing.what == "damaged artifact"), None)
        for ref, thing in self._artifacts.items():
            place = newest.get((ref.kind, ref.name))
            if place is None or thing.started > place.started:  # of two, the first is `latest`: see resolve
                newest[ref.kind, ref.name] = thing
        for ref, thing in self._artifacts.items():
            reason = self._needs.roots.get(thing.id, "")
            if not reason and ref.kind in self._rules.kept_kinds:
                reason = f"is a {ref.kind}"
            if not reason and newest[ref.kind, ref.name] is thing:
                reason = f"the newest {ref.kind}/{ref.name}"
            reason = reason or self._young(thing, self._rules.older_than)
            if reason:
                kept[ref] = reason
        waiting = list(kept)
        while waiting:
            child = waiting.pop()
            for parent in self._artifacts[child].parents:
                if parent in self._artifacts and parent not in kept:
                    kept[parent] = f"{child} was made from it"
                    waiting.append(parent)
        if damaged is not None:
            reason = f"nobody knows what {damaged} was made from, because its manifest cannot be read"
            kept |= {ref: reason for ref in self._artifacts if ref not in kept}
        return kept

    @staticmethod
    def _ref(thing: Thing) -> ArtifactRef:
        assert thing.ref is not None
        return thing.ref

    def _young(self, thing: Thing, limit: float) -> str:
        return f"only {self._age_text(thing)} old" if self._age(thing) < limit else ""

    def _age(self, thing: Thing) -> float:
        return self._now - thing.changed

    def _age_text(self, thing: Thing) -> str:
        return time_text(max(0.0, self._age(thing)))


def in_order(garbage: Iterable[Thing]) -> list[Thing]:
    """Things in the order in which they can be removed: an artifact after all that were made from it, then the rest.

    So wherever the removal is killed, every artifact that is left has its inputs.
    """
    things = list(garbage)
    artifacts = {thing.ref: thing for thing in things if thing.what == "artifact"}
    order: TopologicalSorter[ArtifactRef | None] = TopologicalSorter(dict.fromkeys(sorted(artifacts, key=str), ()))
    for ref, thing in artifacts.items():
        for parent in thing.parents:
            if parent in artifacts:
                order.add(parent, ref)
    return [artifacts[ref] for ref in order.static_order()] + [thing for thing in things if thing.what != "artifact"]
