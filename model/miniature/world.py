"""The rendered world: coloured shapes on textured backgrounds, with exact masks.

A scene is a pure function of its seed, so the miniature data set needs no files: whoever has the seed has
the picture, the objects and the ground truth. Only numpy and PIL are used here.

Seeds below `TRAINING_SEEDS` are for users of the world (data sets, tests, evaluation); the tiny teachers
and backbones are trained on scenes from `TRAINING_SEEDS` on, so that every scene a user renders is unseen
by them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

Rgb = npt.NDArray[np.uint8]  # (H, W, 3)
Masks = npt.NDArray[np.bool_]  # (n, H, W)
Points = npt.NDArray[np.float64]  # (k, 2): x, y in pixels

TRAINING_SEEDS: Final = 1_000_000_000

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (215, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 225),
    "yellow": (235, 215, 50),
    "purple": (150, 55, 185),
    "cyan": (60, 215, 225),
}
SHAPES: Final = ("circle", "square", "triangle", "diamond")

SIZES: Final = (
    (128, 128),
    (160, 120),
    (120, 160),
)  # (width, height): squash, letterbox and padding all happen
MAX_TILT: Final = 10.0  # degrees
GAP: Final = 3.0  # least distance between two circumscribed circles, pixels
DISTRACTOR_SHARE: Final = 0.4  # chance that a further object repeats a colour or shape on purpose
CIRCLE_VERTICES: Final = 8

# Corners on the unit circle (or inside it), clockwise from the top or top left, y downwards.
_CORNERS: Final[dict[str, tuple[tuple[float, float], ...]]] = {
    "square": ((-0.7071, -0.7071), (0.7071, -0.7071), (0.7071, 0.7071), (-0.7071, 0.7071)),
    "triangle": ((0.0, -1.0), (0.866, 0.5), (-0.866, 0.5)),
    "diamond": ((0.0, -1.0), (0.65, 0.0), (0.0, 1.0), (-0.65, 0.0)),
}


@dataclass(frozen=True)
class SceneRules:
    """The numbers of objects and their sizes that a scene may have."""

    counts: tuple[float, ...] = (0.25, 0.45, 0.30)
    """Chances of one object, two objects, and so on; they add up to 1."""
    radii: tuple[float, float] = (15.0, 27.0)
    """Smallest and largest radius of the circumscribed circle, pixels."""


PLAIN: Final = SceneRules()
"""The data set's scenes, and those of every seed that is given without rules."""
WIDE: Final = SceneRules(counts=(0.15, 0.25, 0.30, 0.30), radii=(8.0, 27.0))
"""Scenes with up to four objects, about a third of them small (SMALL)."""
SMALL: Final = 0.02  # an object whose mask has a smaller share of the picture is called small


@dataclass(frozen=True)
class SceneObject:
    """One shape. Centre and radius (of the circumscribed circle) in pixels, angle in degrees, clockwise."""

    colour: str
    shape: str
    cx: float
    cy: float
    radius: float
    angle: float

    @property
    def name(self) -> str:
        """The words that single it out, as 'red circle': a scene holds each pair at most once."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn: size in pixels and the disjoint objects in it."""

    seed: int
    width: int
    height: int
    objects: tuple[SceneObject, ...]


def _pick_pair(rng: np.random.Generator, taken: list[tuple[str, str]]) -> tuple[str, str]:
    """A (colour, shape) not yet taken; with chance DISTRACTOR_SHARE one that repeats the colour or shape of
    a taken one.
    """
    free = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in taken]
    if taken and rng.random() < DISTRACTOR_SHARE:
        colour, shape = taken[int(rng.integers(len(taken)))]
        free = [pair for pair in free if (pair[0] == colour) != (pair[1] == shape)]
    return free[int(rng.integers(len(free)))]


def make_scene(seed: int, rules: SceneRules = PLAIN) -> Scene:
    """The scene of this seed: disjoint objects, each (colour, shape) at most once.

    A crowded picture may have room for fewer objects than were drawn. Raises ValueError if the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    rng = np.random.default_rng([seed, 1])
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    count = int(rng.choice(np.arange(len(rules.counts)) + 1, p=rules.counts))
    objects: list[SceneObject] = []
    pairs: list[tuple[str, str]] = []
    for _ in range(count):
        pair = _pick_pair(rng, pairs)
        for attempt in range(200):
            low, high = rules.radii
            radius = float(rng.uniform(low, high if attempt < 50 else (low + high) / 2))
            cx = float(rng.uniform(radius + 2, width - radius - 2))
            cy = float(rng.uniform(radius + 2, height - radius - 2))
            angle = float(rng.uniform(-MAX_TILT, MAX_TILT))
            if all(math.hypot(cx - o.cx, cy - o.cy) > radius + o.radius + GAP for o in objects):
                objects.append(SceneObject(pair[0], pair[1], cx, cy, radius, angle))
                pairs.append(pair)
                break
    return Scene(seed, width, height, tuple(objects))


def outline(item: SceneObject) -> Points:
    """The polygon of an object, (k, 2) in pixels, clockwise from its top (a square: its top left corner).

    A circle is given by CIRCLE_VERTICES points whose polygon has the circle's area.
    """
    turn = math.radians(item.angle)
    if item.shape == "circle":
        step = 2 * math.pi / CIRCLE_VERTICES
        stretch = math.sqrt(2 * math.pi / (CIRCLE_VERTICES * math.sin(step)))
        around = -math.pi / 2 + step * np.arange(CIRCLE_VERTICES)
        unit = stretch * np.stack([np.cos(around), np.sin(around)], axis=1)
        turn = 0.0  # a turned circle is the same circle; its first point stays at the top
    else:
        unit = np.array(_CORNERS[item.shape])
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    points: Points = np.array([item.cx, item.cy]) + item.radius * unit @ rotation.T
    return points


def object_mask(item: SceneObject, width: int, height: int) -> npt.NDArray[np.bool_]:
    """Exact mask, bool (H, W): the pixels whose centre lies inside the shape."""
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    if item.shape == "circle":
        inside: npt.NDArray[np.bool_] = (xs - item.cx) ** 2 + (ys - item.cy) ** 2 <= item.radius**2
        return inside
    inside = np.ones((height, width), dtype=bool)
    points = outline(item)  # all these shapes are convex: inside means on the right of every clockwise edge
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        inside &= (x1 - x0) * (ys - y0) - (y1 - y0) * (xs - x0) >= 0
    return inside


def _texture(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.float64]:
    """A dull background, float (H, W, 3): soft blotches, sometimes stripes, and grain."""
    base = rng.uniform(60, 190) + rng.uniform(-18, 18, size=3)
    cells = int(rng.integers(3, 9))
    blotches = Image.fromarray(rng.normal(0, 1, size=(cells, cells)).astype(np.float32))
    soft = np.asarray(blotches.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    picture = base + soft[..., None] * rng.uniform(5, 18) * rng.uniform(0.6, 1.2, size=3)
    if rng.random() < 0.4:
        ys, xs = np.mgrid[0:height, 0:width]
        way = rng.uniform(0, math.pi)
        phase = (xs * math.cos(way) + ys * math.sin(way)) * 2 * math.pi / rng.uniform(6, 24)
        picture = picture + (np.sin(phase) * rng.uniform(3, 12))[..., None]
    return np.asarray(picture + rng.normal(0, rng.uniform(2, 7), size=(height, width, 1)))


def render(scene: Scene) -> tuple[Rgb, Masks]:
    """Draw a scene. Returns the picture, uint8 (H, W, 3), and one exact mask an object, bool (n, H, W), in
    their order.
    """
    rng = np.random.default_rng([scene.seed, 2])
    picture = _texture(rng, scene.width, scene.height)
    masks = np.zeros((len(scene.objects), scene.height, scene.width), dtype=bool)
    for index, item in enumerate(scene.objects):
        mask = masks[index] = object_mask(item, scene.width, scene.height)
        paint = np.array(COLOURS[item.colour]) + rng.normal(0, 8, size=3)
        grain = rng.normal(0, rng.uniform(2, 8), size=(int(mask.sum()), 1))
        picture[mask] = paint + grain
    return np.clip(picture, 0, 255).astype(np.uint8), masks
