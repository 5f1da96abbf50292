"""SAM's part of mask generation: from pictures and regions to masks, encoding each picture once."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from model.teachers import rle
from model.teachers.batching import in_batches, reason_of
from model.teachers.evidence import Evidence, Instance
from model.teachers.finding import Found
from model.teachers.polygons import Region
from model.teachers.sam import ImageEmbedding, SamTeacher

PROMPTS_AT_ONCE: Final = 64  # bounds the decoder's memory, not its results: prompts do not see each other
Rgb = npt.NDArray[np.uint8]  # (H, W, 3)


class Segmenter:
    """SAM for the pictures of a shard.

    Args:
        batch: number of pictures that its encoder sees at once.
    """

    def __init__(self, sam: SamTeacher, batch: int = 4) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.sam, self.batch = sam, batch

    def segment(
        self, images: Sequence[Rgb], found: Sequence[Sequence[Found]]
    ) -> tuple[list[list[Evidence]], dict[str, list[int]]]:
        """Evidence for each query of each picture, and the sizes of the batches that were computed, by kind.

        Pictures without regions are not encoded. An error becomes evidence of status 'error' and affects the queries
        of its own picture only.
        """
        sizes: dict[str, list[int]] = {"encoded": [], "prompts": []}
        wanted = [index for index, own in enumerate(found) if any(item.regions for item in own)]
        pictures = [images[index] for index in wanted]
        encoded = dict(zip(wanted, in_batches(pictures, self.batch, self._encode, sizes["encoded"]), strict=True))
        evidence = []
        for index, (image, own) in enumerate(zip(images, found, strict=True)):
            evidence.append(self._of_picture(encoded.pop(index, None), image, own, sizes["prompts"]))
        return evidence, sizes

    def _encode(self, images: list[Rgb]) -> list[ImageEmbedding]:
        return self.sam.encode_images(images, self._rows(len(images)) if self.sam.options.compiled else None)

    def _rows(self, pictures: int) -> int:
        """The smallest size of a compiled batch with room for so many: the full batch, its half, and so on.

        Those are the sizes to which a batch is halved when memory runs out. Others would each be compiled, for a
        minute, and after eight sizes torch gives up compiling.
        """
        rows = self.batch
        while (rows + 1) // 2 >= pictures and rows > 1:
            rows = (rows + 1) // 2
        return rows

    def _of_picture(
        self,
        embedding: ImageEmbedding | Exception | None,
        image: Rgb,
        found: Sequence[Found],
        sizes: list[int],
    ) -> list[Evidence]:
        """Segment all regions of all queries of a picture. embedding: None where there are no regions."""
        regions = [region for own in found for region in own.regions]
        instances: list[Instance | Exception] = []
        if isinstance(embedding, Exception):
            instances = [embedding] * len(regions)
        elif embedding is not None:
            instances = in_batches(regions, PROMPTS_AT_ONCE, lambda g: self._instances(embedding, g, image), sizes)
        evidence, taken = [], 0
        for own in found:
            evidence.append(_evidence(own, instances[taken : taken + len(own.regions)]))
            taken += len(own.regions)
        return evidence

    def _instances(self, embedding: ImageEmbedding, regions: Sequence[Region], image: Rgb) -> list[Instance]:
        height, width = image.shape[:2]
        made = []
        for region, segment in zip(regions, self.sam.segment(embedding, regions), strict=True):
            if not math.isfinite(segment.iou):
                raise ArithmeticError(f"SAM's predicted IoU is {segment.iou}")
            area = rle.area(segment.rle, height, width)
            made.append(
                Instance(
                    rle=segment.rle,
                    area=area,
                    area_fraction=area / (height * width),
                    box=region.box,
                    polygons=region.polygons,
                    phrase=region.phrase,
                    sam_iou=segment.iou,
                    agreement_iou=rle.iou(region.rle(height, width), segment.rle, height, width),
                    stability=segment.stability,
                )
            )
        return made


def _evidence(found: Found, made: Sequence[Instance | Exception]) -> Evidence:
    facts: dict[str, Any] = {
        "polygon_score": found.score,
        "ended": found.ended,
        "answer_tokens": found.tokens,
        "degenerate": found.degenerate,
    }
    errors = [reason_of(item) for item in made if isinstance(item, Exception)]
    if found.error or errors:
        return Evidence(found.query, "error", found.error or errors[0], **facts)
    instances = tuple(item for item in made if isinstance(item, Instance))
    return Evidence(found.query, "ok" if instances else "no_region", found.reason, **facts, instances=instances)
