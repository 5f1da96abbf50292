"""Text to masks: Florence-2 finds regions, SAM refines them, and all of their output is kept as evidence.

The batches depend on the input and the settings only: pictures and queries are batched in their order. Running out of
memory is the exception: then a batch is halved, and the batches that were really computed are reported, because other
batches change the last bits of results.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from model.teachers import rle
from model.teachers.florence import Answer, FlorenceTeacher
from model.teachers.polygons import Box, Polygon, Region
from model.teachers.sam import ImageEmbedding, SamTeacher

Rgb = npt.NDArray[np.uint8]  # (H, W, 3)
Status = Literal["segmented", "no_region", "error"]
Item = TypeVar("Item")
Result = TypeVar("Result")

OUT_OF_MEMORY: Final = "out_of_memory"
REASON_LENGTH: Final = 300  # characters of an error's message that are kept
CPU_ALLOCATOR: Final = "DefaultCPUAllocator"  # on a CPU, torch raises a bare RuntimeError with this in its message


@dataclass(frozen=True)
class Instance:
    """One region: Florence-2's polygons and SAM's mask of it, in pixels of the full picture."""

    polygons: tuple[Polygon, ...]
    box: Box
    rle: str
    area: int
    sam_iou: float
    """SAM's own prediction."""
    agreement_iou: float
    """IoU of the polygons and SAM's mask."""


@dataclass(frozen=True)
class Evidence:
    """All output of the teachers for one query."""

    query: str
    """The text that was really sent; cut if the given one was too long."""
    status: Status
    reason: str = ""
    """Of an error: its class and message."""
    polygon_score: float | None = None
    instances: tuple[Instance, ...] = ()


@dataclass
class Batches:
    """Sizes of the batches that were really computed, in order."""

    pictures: list[int] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)


class Grounding:
    """Both teachers together."""

    def __init__(self, florence: FlorenceTeacher, sam: SamTeacher, batch_queries: int = 16) -> None:
        """`batch_queries` is the number of pictures, and of queries, that Florence-2 sees at once."""
        if batch_queries < 1:
            raise ValueError(f"batch_queries must be at least 1, got {batch_queries}")
        self.florence, self.sam, self.batch_queries = florence, sam, batch_queries

    def ground(self, image: Rgb, queries: Sequence[str]) -> list[Evidence]:
        """Evidence for each query about one picture, uint8 (H, W, 3)."""
        return self.ground_all([(image, queries)])[0][0]

    def ground_all(self, items: Sequence[tuple[Rgb, Sequence[str]]]) -> tuple[list[list[Evidence]], Batches]:
        """Evidence for each query of each picture, and the batches that were computed.

        An error becomes evidence of status 'error' and does not affect other rows.
        """
        batches = Batches()
        pictures = [Image.fromarray(image) for image, _ in items]
        encoded = _in_batches(
            pictures, self.batch_queries, lambda p: list(self.florence.encode_images(p)), batches.pictures
        )
        rows = [(index, query) for index, (_, queries) in enumerate(items) for query in queries]
        asked: list[tuple[torch.Tensor, str] | Exception] = [
            self._asked(encoded[index], query) for index, query in rows
        ]
        answers = _skip_errors(
            asked,
            lambda good: _in_batches(
                good,
                self.batch_queries,
                lambda group: self.florence.ask(torch.stack([seen for seen, _ in group]), [q for _, q in group]),
                batches.queries,
            ),
        )
        evidence: list[list[Evidence]] = []
        taken = 0
        for image, queries in items:
            own = slice(taken, taken + len(queries))
            texts = [
                query if isinstance(row, Exception) else row[1] for query, row in zip(queries, asked[own], strict=True)
            ]
            evidence.append(self._segment(image, texts, answers[own]))
            taken += len(queries)
        return evidence, batches

    def _asked(self, seen: torch.Tensor | Exception, query: str) -> tuple[torch.Tensor, str] | Exception:
        """The arguments of one row for Florence-2, or the error that prevents it."""
        if isinstance(seen, Exception):
            return seen
        try:
            return seen, self.florence.fit(query, len(seen))
        except Exception as error:
            return error

    def _segment(self, image: Rgb, queries: Sequence[str], answers: Sequence[Answer | Exception]) -> list[Evidence]:
        """SAM's part for one picture: encode it once, then segment all regions of all queries."""
        height, width = image.shape[:2]
        found: list[list[Region] | Exception] = []
        for answer in answers:
            try:
                found.append(answer if isinstance(answer, Exception) else self._regions(answer, height, width))
            except Exception as error:
                found.append(error)
        regions = [region for own in found if not isinstance(own, Exception) for region in own]
        instances: list[Instance | Exception] = []
        if regions:
            try:
                embedding = self.sam.encode_image(image)
                instances = list(_in_batches(regions, len(regions), lambda g: self._instances(embedding, g, image), []))
            except Exception as error:
                instances = [error] * len(regions)
        evidence, taken = [], 0
        for query, answer, own in zip(queries, answers, found, strict=True):
            if isinstance(answer, Exception):
                evidence.append(Evidence(query, "error", reason_of(answer)))
            elif isinstance(own, Exception):
                evidence.append(Evidence(query, "error", reason_of(own)))
            else:
                evidence.append(_evidence(query, answer, instances[taken : taken + len(own)]))
                taken += len(own)
        return evidence

    def _regions(self, answer: Answer, height: int, width: int) -> list[Region]:
        if not math.isfinite(answer.score):
            raise ArithmeticError(f"Florence-2's score is {answer.score}")
        return self.florence.regions(answer, height, width)

    def _instances(self, embedding: ImageEmbedding, regions: Sequence[Region], image: Rgb) -> list[Instance]:
        height, width = image.shape[:2]
        made = []
        for region, segment in zip(regions, self.sam.segment(embedding, regions), strict=True):
            if not math.isfinite(segment.iou):
                raise ArithmeticError(f"SAM's predicted IoU is {segment.iou}")
            made.append(
                Instance(
                    polygons=region.polygons,
                    box=region.box,
                    rle=segment.rle,
                    area=rle.area(segment.rle, height, width),
                    sam_iou=segment.iou,
                    agreement_iou=rle.iou(region.rle(height, width), segment.rle, height, width),
                )
            )
        return made


def reason_of(error: Exception) -> str:
    """An error in one line: its class and message."""
    if _is_out_of_memory(error):
        return f"{OUT_OF_MEMORY}: even a batch of one row does not fit"
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}"[:REASON_LENGTH]


def _evidence(query: str, answer: Answer, made: Sequence[Instance | Exception]) -> Evidence:
    for item in made:
        if isinstance(item, Exception):
            return Evidence(query, "error", reason_of(item), answer.score)
    instances = tuple(item for item in made if isinstance(item, Instance))
    return Evidence(query, "segmented" if instances else "no_region", "", answer.score, instances)


def _skip_errors(
    rows: Sequence[Item | Exception], compute: Callable[[list[Item]], list[Result | Exception]]
) -> list[Result | Exception]:
    """Compute the rows that are not errors; errors keep their places."""
    results = iter(compute([row for row in rows if not isinstance(row, Exception)]))
    return [row if isinstance(row, Exception) else next(results) for row in rows]


def _in_batches(
    items: Sequence[Item], size: int, compute: Callable[[list[Item]], Sequence[Result]], sizes: list[int]
) -> list[Result | Exception]:
    """Compute items in batches of `size`; appends the size of every batch that succeeded to `sizes`.

    A batch that runs out of memory is halved; one that fails otherwise is computed row by row, so that only the row
    at fault fails. A row that fails alone gives its exception.
    """

    def run(batch: list[Item]) -> list[Result | Exception]:
        try:
            results = list(compute(batch))
        except Exception as error:
            if len(batch) == 1:
                return [error]
            part = (len(batch) + 1) // 2 if _is_out_of_memory(error) else 1
        else:
            sizes.append(len(batch))
            return [*results]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # outside 'except': the traceback would keep the batch's tensors alive
        return [result for start in range(0, len(batch), part) for result in run(batch[start : start + part])]

    found: list[Result | Exception] = []
    for start in range(0, len(items), max(size, 1)):
        found.extend(run(list(items[start : start + size])))
    return found


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_ALLOCATOR in str(error)
