"""The interface of a teacher: one or more phases, each a model that is loaded in an actor.

The last phase gives evidence (`model.teachers.evidence.Evidence`), which is all that later steps see.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from pipeline.masks.pictures import Picture

Batches = dict[str, list[int]]
"""Kind of batch -> the sizes that were really computed, in order."""


class Phase(Protocol):
    """One model of a teacher, ready to work. Opened once per actor, called once per shard."""

    def __call__(self, pictures: Sequence[Picture], before: Sequence[Sequence[Any]]) -> tuple[list[list[Any]], Batches]:
        """A result for each query of each picture, in order.

        Args:
            pictures: pictures with pixels; their queries are rows of QUERIES.
            before: the results of the phase before, for each query of each picture; empty lists for the first phase.

        Results of a phase that is not the last are frozen dataclasses without tensors; they may go to another process.
        An error of one query becomes a result that says so, and does not affect other queries.
        """
        ...
