"""Text to masks: Florence-2 finds regions, SAM refines them, and all of their output is kept as evidence."""

from collections.abc import Sequence

from model.teachers.evidence import Evidence
from model.teachers.finding import Finder, Rgb
from model.teachers.segmenting import Segmenter


class Grounding:
    """Both teachers together."""

    def __init__(self, finder: Finder, segmenter: Segmenter) -> None:
        self.finder, self.segmenter = finder, segmenter

    def ground(self, image: Rgb, queries: Sequence[str]) -> list[Evidence]:
        """Evidence for each query about one picture, uint8 (H, W, 3)."""
        return self.ground_all([(image, queries)])[0][0]

    def ground_all(
        self, items: Sequence[tuple[Rgb, Sequence[str]]]
    ) -> tuple[list[list[Evidence]], dict[str, list[int]]]:
        """Evidence for each query of each picture, and the sizes of the batches that were computed, by kind.

        An error becomes evidence of status 'error' and does not affect other rows.
        """
        found, first = self.finder.find(items)
        evidence, second = self.segmenter.segment([image for image, _ in items], found)
        return evidence, first | second
