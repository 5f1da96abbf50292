"""Florence-2's part of mask generation: from pictures and texts to regions, encoding each picture once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from model.teachers.batching import in_batches, reason_of, skip_errors
from model.teachers.florence import Answer, FlorenceTeacher
from model.teachers.polygons import Region
from model.teachers.tasks import mentions_something

Rgb = npt.NDArray[np.uint8]  # (H, W, 3)
EMPTY_QUERY: Final = "empty_query"
Question = tuple[torch.Tensor, str]
"""An encoded picture (image tokens, width) and a text about it."""


@dataclass(frozen=True)
class Found:
    """Florence-2's answer to one query, as regions in pixels of the full picture. Holds no tensors."""

    query: str
    """The text that was really sent; cut if the given one was too long."""
    regions: tuple[Region, ...] = ()
    error: str = ""
    """The reason why there is no answer; '' if there is one."""
    reason: str = ""
    """EMPTY_QUERY if Florence-2 was not asked, because the text is about nothing."""
    score: float | None = None
    ended: bool | None = None
    tokens: int | None = None
    degenerate: int = 0
    """Polygons and boxes without area that were dropped."""


class _EmptyQueryError(Exception):
    """Takes the place of a question about nothing."""


class Finder:
    """Florence-2 for the pictures of a shard.

    Args:
        batch: number of pictures, and of queries, that it sees at once.
    """

    def __init__(self, florence: FlorenceTeacher, batch: int = 16) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.florence, self.batch = florence, batch

    def find(self, items: Sequence[tuple[Rgb, Sequence[str]]]) -> tuple[list[list[Found]], dict[str, list[int]]]:
        """The regions of each query of each picture, and the sizes of the batches that were computed, by kind.

        An error becomes a `Found` with its reason and does not affect other rows.
        """
        sizes: dict[str, list[int]] = {"pictures": [], "queries": []}
        wanted = [index for index, (_, queries) in enumerate(items) if any(map(mentions_something, queries))]
        pictures = [Image.fromarray(items[index][0]) for index in wanted]
        seen = in_batches(pictures, self.batch, lambda p: list(self.florence.encode_images(p)), sizes["pictures"])
        encoded = dict(zip(wanted, seen, strict=True))
        rows = [(index, query) for index, (_, queries) in enumerate(items) for query in queries]
        asked = [self._question(encoded.get(index), query) for index, query in rows]
        answers = skip_errors(asked, lambda good: in_batches(good, self.batch, self._ask, sizes["queries"]))
        found: list[list[Found]] = [[] for _ in items]
        for (index, query), question, answer in zip(rows, asked, answers, strict=True):
            height, width = items[index][0].shape[:2]
            sent = query if isinstance(question, Exception) else question[1]
            found[index].append(self._found(sent, answer, height, width))
        return found, sizes

    def _question(self, seen: torch.Tensor | Exception | None, query: str) -> Question | Exception:
        """The arguments of one row for Florence-2, or the error that prevents it. seen: None if nothing was asked."""
        if seen is None or not mentions_something(query):
            return _EmptyQueryError()
        if isinstance(seen, Exception):
            return seen
        try:
            sent = self.florence.fit(query, len(seen))
        except Exception as error:
            return error
        return (seen, sent) if mentions_something(sent) else _EmptyQueryError()

    def _ask(self, group: list[Question]) -> list[Answer]:
        return self.florence.ask(torch.stack([seen for seen, _ in group]), [query for _, query in group])

    def _found(self, query: str, answer: Answer | Exception, height: int, width: int) -> Found:
        if isinstance(answer, _EmptyQueryError):
            return Found(query, reason=EMPTY_QUERY)
        if isinstance(answer, Exception):
            return Found(query, error=reason_of(answer))
        try:
            if not math.isfinite(answer.score):
                raise ArithmeticError(f"Florence-2's score is {answer.score}")
            regions, dropped = self.florence.regions(answer, height, width)
        except Exception as error:
            return Found(query, error=reason_of(error))
        return Found(
            query,
            tuple(regions),
            score=answer.score,
            ended=answer.ended,
            tokens=answer.tokens,
            degenerate=dropped,
        )
