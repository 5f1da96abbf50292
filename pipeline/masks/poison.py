"""Pictures that kill their process, by shard: found by bisection and committed, so that every writer skips the same.

A shard's evidence is a pure function of its queries, the parameters and its poison. The poison is found in rounds: the
first commit of a round wins, and a round never takes a picture back.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import pyarrow as pa

from model.errors import StepError
from pipeline.artifacts.shards import Seal, Shards
from pipeline.masks.attempts import SUSPECT, Attempts
from pipeline.masks.bisection import ALONE, Journal, bisect
from pipeline.masks.pictures import pictures_in

POISON = "poison"
"""Name of the reason of a row whose picture kills its process."""
ROUNDS = 3
"""Searches of one shard in one run that find nothing. After them, pictures that kill only together remain."""
FIRST_PICTURES = 3
"""Pictures that are tried alone, before any work of the step succeeded. If all kill, the cause is not theirs."""
REASONS = {
    "decode": f"{POISON}: the process that decodes this picture died {ALONE} times, each time with it alone",
    "teacher": f"{POISON}: the process of the teacher died {ALONE} times at this picture, each time with it alone",
}
"""Kind of work -> the reason in the evidence."""


class Prober(Protocol):
    """Tries work that may kill its process."""

    def survives(self, work: str, shard: int, queries: pa.Table) -> bool:
        """True if a process decoded these queries' pictures ('decode') or also ran the teacher on them ('teacher')."""
        ...


class Poison:
    """The poison of all shards of a step.

    Args:
        shards: where it is committed.
        attempts: the notes of the step; those of a shard are removed after each round.
    """

    def __init__(self, shards: Shards, attempts: Attempts) -> None:
        self._shards, self._attempts = shards, attempts
        self._rounds: dict[str, list[dict[int, str]]] = {}
        self._fruitless = Counter[str]()
        for name, seal in sorted(shards.committed().items()):
            self._rounds.setdefault(name.rpartition("-round-")[0], []).append(_of(seal))

    def of(self, name: str) -> dict[int, str]:
        """The poison of a shard: number of a picture in it -> the reason in the evidence."""
        return {index: reason for found in self._rounds.get(name, []) for index, reason in found.items()}

    def search(
        self,
        name: str,
        shard: int,
        queries: pa.Table,
        prober: Prober,
        check: Callable[[int], None],
        proven: bool,
    ) -> None:
        """Look at the pictures of a suspect shard one by one, and commit what was found.

        Args:
            name, shard, queries: the shard.
            prober: tries ranges of its pictures.
            check: called with the number of queries of all pictures found so far; may raise an error to stop.
            proven: True if work of this step succeeded, so that not everything kills its process.

        Raises StepError if pictures kill only together, or if everything does.
        """
        done = self._rounds.get(name, [])
        if self._fruitless[name] >= ROUNDS:
            self._attempts.forget(name)  # the next run may have more memory
            raise StepError(
                f"{name} kills its process, but none of its pictures does so alone (searched {ROUNDS} times): there is "
                "too little memory for its batches; give the actors more, or lower teacher.batch_queries, "
                "teacher.batch_images or teacher.shard_images"
            )
        groups = pictures_in(queries)
        known = self.of(name)
        print(
            f"{name}: processes died {SUSPECT} times at it; looking at its {len(groups)} pictures one by one",
            flush=True,
        )
        found: dict[int, str] = {}
        for work in REASONS:
            left = [index for index in range(len(groups)) if index not in known and index not in found]
            found |= self._search_work(name, shard, work, [(i, groups[i]) for i in left], prober, check, proven)
        seal = self._shards.commit(
            f"{name}-round-{len(done) + 1}",
            {f"{name}-round-{len(done) + 1}.json": json.dumps(sorted(found.items())).encode()},
            len(found),
            {POISON: sorted(found.items())},
        )
        self._rounds.setdefault(name, []).append(_of(seal))
        self._fruitless[name] += not _of(seal)  # of this run, because a kill of a whole run says nothing about pictures
        self._attempts.forget(name)
        self._attempts.write_journal(name, {})
        print(f"{name}: {len(_of(seal))} pictures kill their process; they become rows with an error", flush=True)

    def forget(self) -> None:
        """Remove all that was found, and the notes: the cause may be corrected before the next run."""
        self._shards.drop_all()
        self._attempts.forget_all()
        self._rounds.clear()

    def _search_work(
        self,
        name: str,
        shard: int,
        work: str,
        pictures: Sequence[tuple[int, pa.Table]],
        prober: Prober,
        check: Callable[[int], None],
        proven: bool,
    ) -> dict[int, str]:
        journal = Journal(self._attempts.read_journal(name), lambda t: self._attempts.write_journal(name, t))

        def survives(first: int, last: int) -> bool:
            part = pa.concat_tables([queries for _, queries in pictures[first:last]])
            label = f"{work} {pictures[first][0]}..{pictures[last - 1][0]}"
            return journal.remembered(label, lambda: prober.survives(work, shard, part))

        def found_one(found: list[int]) -> None:
            check(sum(len(pictures[index][1]) for index in found))

        if not proven and pictures:
            some = sorted({number * (len(pictures) - 1) // (FIRST_PICTURES - 1) for number in range(FIRST_PICTURES)})
            tries = ALONE if len(some) < FIRST_PICTURES else 1  # few pictures may be poison; many are not
            if not any(survives(index, index + 1) for index in some for _ in range(tries)):
                self._attempts.forget_all()  # the next run, after a repair, must not remember these deaths
                raise StepError(
                    f"every picture that is tried kills its process ({work}: {len(some)} of {name}, each alone), so "
                    "the pictures are not the cause; look for a crash of a library or a driver, or too little memory, "
                    "in the logs of Ray's workers, and run the step again"
                )
        found = bisect(len(pictures), survives, found_one)
        return {pictures[index][0]: REASONS[work] for index in found}


def _of(seal: Seal) -> dict[int, str]:
    return {int(index): str(reason) for index, reason in seal.facts[POISON]}
