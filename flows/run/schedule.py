"""The schedule: the steps that may start now, from the plan, the steps that are done, and the cluster's size."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from flows.run.settings import Totals
from model.errors import ConfigError
from pipeline.plan.planner import Plan, PlannedStep


@dataclass(frozen=True)
class Demand:
    """CPUs and GPUs that a step keeps busy while it runs."""

    cpus: float
    gpus: float


def demand(step: PlannedStep) -> Demand:
    """The demand of a step: its workers' CPUs, or their threads if these are more, and GPUs.

    Threads count so that a step with a model of two threads fills a laptop, and one such step runs there at a time. One
    thread is what every process has: a step that asks for less than one CPU shares it with others on purpose.
    """
    asked = step.resources
    busy = asked.threads if asked.threads > 1 else 0
    pools = (asked, asked.second_pool) if asked.second_pool else (asked,)
    return Demand(sum(pool.workers * max(pool.cpus, busy) for pool in pools), asked.all_gpus)


def check_feasible(plan: Plan, totals: Totals) -> None:
    """Refuse a plan with a step that the cluster could never run. Raises ConfigError naming step and remedy."""
    for step in plan:
        asked = step.resources
        for what, need, have in (
            ("CPUs", asked.all_cpus, totals.cpus),
            ("GPUs", asked.all_gpus, totals.gpus),
        ):
            if need > have:
                raise ConfigError(
                    f"{step.key} asks for {need:g} {what} ({asked.workers} workers), but the cluster has {have:g}: "
                    f"lower resources.{step.step.name} in the recipe, or run on a larger cluster "
                    "(one that grows by itself: declare its full size in AGEVLM_CLUSTER_CPUS and AGEVLM_CLUSTER_GPUS)"
                )


def dependents(plan: Plan) -> dict[str, int]:
    """Number of steps that need each step, directly or not."""
    needed_by: dict[str, set[str]] = {step.key: set() for step in plan}
    for step in reversed(plan):
        for key in step.inputs.values():
            needed_by[key] |= {step.key, *needed_by[step.key]}
    return {key: len(found) for key, found in needed_by.items()}


class Schedule:
    """Progress through a plan. Not thread-safe: it belongs to the flow's main thread."""

    def __init__(self, plan: Plan) -> None:
        waited_for = dependents(plan)
        order = sorted(plan, key=lambda step: -waited_for[step.key])  # stable: then the plan's own order
        self._waiting: dict[str, PlannedStep] = {step.key: step for step in order}
        self._running: dict[str, PlannedStep] = {}
        self._made: set[str] = set()
        self._broken: dict[str, str] = {}

    @property
    def finished(self) -> bool:
        """True if nothing runs and nothing is left to start."""
        return not self._waiting and not self._running

    @property
    def running(self) -> Set[str]:
        """Keys of the steps that run."""
        return self._running.keys()

    @property
    def broken(self) -> Mapping[str, str]:
        """Steps that failed or were skipped -> the failed step that caused it."""
        return self._broken

    def ready(self, totals: Totals) -> list[PlannedStep]:
        """Steps to start now: those whose inputs are made and that fit beside what runs.

        The step that most other steps need starts first: while it runs, the others find room. A step that is larger
        than the whole cluster counts as all of it. While one waits for room, later ones may overtake it if they fit.
        """
        chosen: list[PlannedStep] = []
        room_cpus = totals.cpus - sum(self._clamped(step, totals).cpus for step in self._running.values())
        room_gpus = totals.gpus - sum(self._clamped(step, totals).gpus for step in self._running.values())
        for step in self._waiting.values():
            if not set(step.inputs.values()) <= self._made:
                continue
            need = self._clamped(step, totals)
            if need.cpus <= room_cpus + 1e-9 and need.gpus <= room_gpus + 1e-9:
                chosen.append(step)
                room_cpus -= need.cpus
                room_gpus -= need.gpus
        return chosen

    def start(self, key: str) -> None:
        """Note that a step runs."""
        self._running[key] = self._waiting.pop(key)

    def made(self, key: str) -> None:
        """Note that a step's artifact exists."""
        self._running.pop(key, None)
        self._waiting.pop(key, None)
        self._made.add(key)

    def failed(self, key: str) -> list[PlannedStep]:
        """Note that a step failed. Returns the waiting steps that need it: they are removed, for they can never run."""
        self._running.pop(key, None)
        self._waiting.pop(key, None)
        self._broken[key] = key
        skipped = []
        for step in list(self._waiting.values()):  # inputs come first: more steps need them
            culprit = next((self._broken[k] for k in step.inputs.values() if k in self._broken), None)
            if culprit is not None:
                self._broken[step.key] = culprit
                skipped.append(self._waiting.pop(step.key))
        return skipped

    @staticmethod
    def _clamped(step: PlannedStep, totals: Totals) -> Demand:
        need = demand(step)
        return Demand(min(need.cpus, totals.cpus), min(need.gpus, totals.gpus))
