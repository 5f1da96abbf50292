"""Training data of the tiny Florence-2: pictures, the texts that the pipeline sends, and their polygons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from transformers import Florence2Processor

from model.miniature.florence import BINS, BOS, EOS, GRID, LOCATIONS
from model.miniature.language import absent_question, caption, present_question, questions
from model.miniature.training import MOST_OBJECTS, SceneBank, build_bank, cell_labels
from model.miniature.world import COLOURS, PLAIN, SHAPES, WIDE, Scene, SceneRules, outline

CAPTION_VARIANTS: Final = 6
ABSENT_SHARE: Final = 0.22  # of the second phase's texts
ABSENT_ANSWERED_SHARE: Final = 0.03
PRESENT_SHARE: Final = 0.20
SAME_COLOUR: Final = 0.6  # share of the absent objects that have a present one's colour: all errors are about these
OWN_CELL: Final = 0.25  # least share of a cell that an object must have to own it
Query = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class FlorenceSettings:
    """Length and batch size of the training."""

    scenes: int = 4000
    tower_steps: int = 220
    tower_batch: int = 32
    steps: int = 2400
    batch: int = 8  # images a step
    queries: int = 4  # texts an image
    peak: float = 1e-3
    seed: int = 0
    rules: tuple[SceneRules, ...] = (PLAIN,)
    skip: int = 0  # of the seed's scenes
    own_cell: float = OWN_CELL


SECOND_PHASE: Final = FlorenceSettings(
    scenes=5000,
    steps=2400,
    queries=3,
    peak=6e-4,
    rules=(PLAIN, WIDE),
    skip=1_000_000,
    own_cell=0.1,
)
"""Small objects, up to four of them, and many questions about absent ones."""


def scene_queries(scene: Scene) -> tuple[list[Query], list[Query], list[Query]]:
    """The texts that the pipeline sends for a scene: captions, questions, questions with their answers."""
    said = [caption(scene, variant) for variant in range(CAPTION_VARIANTS)]
    asked = questions(scene)
    return (
        [(u.text, u.targets) for u in said],
        [(q.question, q.targets) for q in asked],
        [(f"{q.question} {q.answer}", q.targets) for q in asked],
    )


class Curriculum:
    """Rendered scenes with their texts and polygons; everything constant is computed once."""

    def __init__(self, settings: FlorenceSettings, processor: Florence2Processor) -> None:
        self.settings = settings
        self.processor = processor
        self.bank: SceneBank = build_bank(
            settings.scenes, settings.seed, "squash", rules=settings.rules, skip=settings.skip
        )
        self.queries = [scene_queries(scene) for scene in self.bank.scenes]
        tokenizer = processor.tokenizer
        self.bin_ids = torch.tensor(
            [
                tokenizer.convert_tokens_to_ids(f"<loc_{k * LOCATIONS // BINS + LOCATIONS // BINS // 2}>")
                for k in range(BINS)
            ]
        )
        self.open, self.close = tokenizer.convert_tokens_to_ids(["<poly>", "</poly>"])
        colours, shapes = list(COLOURS), list(SHAPES)
        count = len(self.bank.scenes)
        self.table = torch.zeros(count, MOST_OBJECTS + 1, 2, dtype=torch.long)
        self.boxes = torch.zeros(count, MOST_OBJECTS + 1, 4)
        self.outlines: list[list[npt.NDArray[np.float64]]] = []
        for i, scene in enumerate(self.bank.scenes):
            size = np.array([scene.width, scene.height])
            points = [np.clip(outline(item) / size, 0.0, 1.0 - 1e-6) for item in scene.objects]
            self.outlines.append(points)
            for k, item in enumerate(scene.objects):
                self.table[i, k + 1] = torch.tensor([colours.index(item.colour) + 1, shapes.index(item.shape) + 1])
                box = np.concatenate([points[k].min(axis=0), points[k].max(axis=0)])
                self.boxes[i, k + 1] = torch.from_numpy(box).float()

    def dense(self, chosen: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Owner, kind table and boxes: arguments of `DenseHead.forward`."""
        owner, _ = cell_labels(self.bank, chosen, GRID, self.settings.own_cell)
        index = torch.from_numpy(chosen)
        return owner, self.table[index], self.boxes[index]

    def named(self, chosen: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares of the cells and kinds of the objects: arguments of `NameHead.forward`."""
        _, shares = cell_labels(self.bank, chosen, GRID)
        return shares, self.table[torch.from_numpy(chosen), 1:]

    def draw(self, rng: np.random.Generator, scene: int, absent: float) -> Query:
        """A text about a scene: a caption (30 %), a question or a question with its answer (35 % each).

        A text about something absent is kept with chance `absent`, else another one is drawn.
        """
        while True:
            group = self.queries[scene][int(rng.choice(3, p=[0.3, 0.35, 0.35]))]
            text, targets = group[int(rng.integers(len(group)))]
            if targets or rng.random() < absent:
                return text, targets

    def draw_decided(self, rng: np.random.Generator, scene: int) -> Query:
        """A text for the second phase: half of them ask whether an object is there, more often about an absent one.

        Absent objects are drawn anew each time, so that the answer cannot be learned by heart.
        """
        kind, drawn = rng.random(), self.bank.scenes[scene]
        if kind < ABSENT_SHARE:
            asked = absent_question(drawn, rng, SAME_COLOUR)
            return asked.question, ()
        if kind < ABSENT_SHARE + ABSENT_ANSWERED_SHARE:
            asked = absent_question(drawn, rng, SAME_COLOUR)
            return f"{asked.question} {asked.answer}", ()
        if kind < ABSENT_SHARE + ABSENT_ANSWERED_SHARE + PRESENT_SHARE:
            asked = present_question(drawn, rng)
            return asked.question, asked.targets
        return self.draw(rng, scene, absent=0.0)

    def answer(self, scene: int, targets: tuple[int, ...]) -> tuple[list[int], list[float]]:
        """Token ids of the wanted output and, for each, its coordinate in bins (-1 for a token that is no location)."""
        ids, where = [BOS], [-1.0]
        for k in targets:
            ids.append(self.open)
            where.append(-1.0)
            for value in self.outlines[scene][k].reshape(-1) * BINS:
                ids.append(int(self.bin_ids[int(value)]))
                where.append(float(value))
            ids.append(self.close)
            where.append(-1.0)
        return [*ids, EOS], [*where, -1.0]
