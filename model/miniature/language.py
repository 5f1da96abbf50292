"""What is said about a scene: captions, questions and answers, each with the objects that it is about.

The texts are the very ones that the teachers are asked with (caption, question, question and answer), so
`targets` is the ground truth of their segmentation: indices into `scene.objects`, in the order in which the
text names them, and empty when the object asked for is not in the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from model.miniature.world import COLOURS, SHAPES, Scene, SceneObject

KINDS: Final = ("existence", "colour", "shape", "where", "count")
NUMBERS: Final = ("zero", "one", "two", "three", "four")
NEAR_MISS_SHARE: Final = 0.7  # share of absent objects that repeat the colour or shape of a present one

CAPTION_PROMPTS: Final = (
    "Describe the image.",
    "What is in the image?",
    "Give a short description of the image.",
)

_CAPTIONS: Final = (
    "{things}.",
    "There is {things} in the image.",
    "The image shows {things}.",
    "A picture of {things}.",
)
_EXISTENCE: Final = ("Is there a {name} in the image?", "Can you see a {name}?")


@dataclass(frozen=True)
class Utterance:
    """A text about a scene and the indices of the objects that it names."""

    text: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """A question with its answer; `targets` are the objects asked about, `()` when absent; `kind` is one of
    KINDS.
    """

    question: str
    answer: str
    targets: tuple[int, ...]
    kind: str


def _enumerate_things(names: list[str]) -> str:
    """'a red circle', 'a red circle and a blue square', 'a red circle, a blue square and a cyan circle'."""
    things = [f"a {name}" for name in names]
    if len(things) == 1:
        return things[0]
    return ", ".join(things[:-1]) + " and " + things[-1]


def caption(scene: Scene, variant: int) -> Utterance:
    """A caption: even variants name every object, odd ones a single one. Order and words follow from both.

    Raises ValueError if the variant is negative.
    """
    if variant < 0:
        raise ValueError(f"variant must not be negative, got {variant}")
    rng = np.random.default_rng([scene.seed, 3, variant])
    order = [int(i) for i in rng.permutation(len(scene.objects))]
    if variant % 2:
        order = order[:1]
    text = _CAPTIONS[int(rng.integers(len(_CAPTIONS)))].format(
        things=_enumerate_things([scene.objects[i].name for i in order])
    )
    return Utterance(text[0].upper() + text[1:], tuple(order))


def absent_name(scene: Scene, rng: np.random.Generator) -> str:
    """An object that is not in the scene; NEAR_MISS_SHARE of them repeat a colour or a shape that is."""
    present = {(o.colour, o.shape) for o in scene.objects}
    colours, shapes = {c for c, _ in present}, {s for _, s in present}
    free = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in present]
    near = rng.random() < NEAR_MISS_SHARE
    chosen = [p for p in free if (p[0] in colours or p[1] in shapes) == near] or free
    colour, shape = chosen[int(rng.integers(len(chosen)))]
    return f"{colour} {shape}"


def absent_question(scene: Scene, rng: np.random.Generator, same_colour: float = 0.0) -> Question:
    """A question whether an object is there that is not.

    same_colour: chance that it has the colour of one that is there. Otherwise `absent_name` chooses it.
    """
    name = absent_name(scene, rng)
    if rng.random() < same_colour:
        present = {(o.colour, o.shape) for o in scene.objects}
        free = [(c, s) for c in sorted({c for c, _ in present}) for s in SHAPES if (c, s) not in present]
        if free:
            name = " ".join(free[int(rng.integers(len(free)))])
    return existence(rng, name, ())


def present_question(scene: Scene, rng: np.random.Generator) -> Question:
    """A question whether an object is there that is; half of them about one that shares its colour or shape."""
    objects = scene.objects
    alike = [i for i, a in enumerate(objects) if any((a.colour == b.colour) != (a.shape == b.shape) for b in objects)]
    among = alike if alike and rng.random() < 0.5 else list(range(len(objects)))
    index = among[int(rng.integers(len(among)))]
    return existence(rng, objects[index].name, (index,))


def place(item: SceneObject, scene: Scene) -> str | None:
    """'top left' and so on; None when the centre is too near a midline to say."""
    across, down = item.cx / scene.width - 0.5, item.cy / scene.height - 0.5
    if min(abs(across), abs(down)) < 0.06:
        return None
    return f"{'top' if down < 0 else 'bottom'} {'left' if across < 0 else 'right'}"


def existence(rng: np.random.Generator, name: str, targets: tuple[int, ...]) -> Question:
    """The question whether an object is there, and its answer: yes if it has `targets`, no if they are ()."""
    asked = _EXISTENCE[int(rng.integers(len(_EXISTENCE)))].format(name=name)
    answer = f"Yes, there is a {name} in the image." if targets else f"No, there is no {name} in the image."
    return Question(asked, answer, targets, "existence")


def questions(scene: Scene) -> list[Question]:
    """All questions of a scene, in an order that follows from its seed.

    For each object one question whether it is there, and one about an absent object, so that half the
    answers are no; its colour where its shape is unique, its shape where its colour is, its place where
    that is clear; and the number of objects.
    """
    rng = np.random.default_rng([scene.seed, 4])
    asked: list[Question] = []
    absent: set[str] = set()
    for index, item in enumerate(scene.objects):
        asked.append(existence(rng, item.name, (index,)))
        missing = absent_name(scene, rng)
        while missing in absent:
            missing = absent_name(scene, rng)
        absent.add(missing)
        asked.append(existence(rng, missing, ()))
        if sum(o.shape == item.shape for o in scene.objects) == 1:
            text = f"What colour is the {item.shape}?"
            asked.append(Question(text, f"The {item.shape} is {item.colour}.", (index,), "colour"))
        if sum(o.colour == item.colour for o in scene.objects) == 1:
            text = f"What shape is the {item.colour} object?"
            asked.append(Question(text, f"The {item.colour} object is a {item.shape}.", (index,), "shape"))
        where = place(item, scene)
        if where is not None:
            text = f"Where is the {item.name}?"
            asked.append(Question(text, f"The {item.name} is at the {where}.", (index,), "where"))
    number = len(scene.objects)
    count = f"There is {NUMBERS[1]} object." if number == 1 else f"There are {NUMBERS[number]} objects."
    asked.append(Question("How many objects are there?", count, tuple(range(number)), "count"))
    return [asked[int(i)] for i in rng.permutation(len(asked))]
