"""The place of a picture and of a mask in the student's square, worked out a second time and in another way.

Floating point in place of integers, and pictures as means over small blocks of pixels, so that two ways of resampling
agree. `model.agevlm.letterbox` rounds a picture's place to whole pixels: each of its edges moves by at most SLACK.

Shapes: H x W image pixels, S = grid * grid cells, n x n blocks.
"""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Mask = npt.NDArray[np.bool_]
Blocks = npt.NDArray[np.float32]
"""(n, n, 3): mean colour of each block of the square, 0..255."""

SLACK = 1.01
"""Pixels of the square by which an edge may differ: half a pixel of size and half of position, or a sliver's one."""
BLOCKS_PER_CELL = 4
PLAIN = {"JPEG": ("RGB", "L"), "PNG": ("RGB", "L"), "WEBP": ("RGB",)}
"""Formats and modes whose colours need no decision; other pictures are not compared."""


@dataclass(frozen=True)
class Square:
    """The student's square input.

    side, stride: pixels. letterbox: 'mean', 'zero' or 'squash'. rule: for cells that a mask covers in part.
    mean, std: the normalisation of colours that are scaled to 0..1.
    """

    side: int
    stride: int
    letterbox: str
    rule: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def grid(self) -> int:
        """Cells along one side."""
        return self.side // self.stride

    @property
    def block(self) -> int:
        """Pixels along one side of a block."""
        return max(1, self.stride // BLOCKS_PER_CELL)

    def place(self, height: int, width: int, letterbox: str | None = None) -> "Place":
        """The place of an upright image in the square."""
        if (letterbox or self.letterbox) == "squash":
            return Place(0.0, 0.0, self.side / height, self.side / width)
        scale = self.side / max(height, width)
        return Place((self.side - height * scale) / 2, (self.side - width * scale) / 2, scale, scale)

    def blocks(self, pixels: npt.NDArray[np.float32]) -> Blocks:
        """The blocks of normalised pixels (3, side, side)."""
        n = self.side // self.block
        means = pixels[:, : n * self.block, : n * self.block].reshape(3, n, self.block, n, self.block).mean((2, 4))
        levels = means.transpose(1, 2, 0) * np.array(self.std, np.float32) + np.array(self.mean, np.float32)
        return np.asarray(255 * levels, dtype=np.float32)

    def drawn(self, picture: Image.Image, place: "Place | None" = None) -> Blocks:
        """The blocks of an upright picture that is drawn into the square here, at its place or at another one."""
        place = place or self.place(picture.height, picture.width)
        height = max(1, _whole(picture.height * place.scale_y))
        width = max(1, _whole(picture.width * place.scale_x))
        if place.centred(picture.height, picture.width, self.side):
            top, left = (self.side - height) // 2, (self.side - width) // 2
        else:
            top, left = _whole(place.top), _whole(place.left)
        inner = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        colour = (0, 0, 0) if self.letterbox == "zero" else tuple(round(255 * value) for value in self.mean)
        square = Image.new("RGB", (self.side, self.side), colour)
        square.paste(inner, (left, top))
        n = self.side // self.block
        values = np.asarray(square, dtype=np.float32)[: n * self.block, : n * self.block]
        return np.asarray(values.reshape(n, self.block, n, self.block, 3).mean((1, 3)), dtype=np.float32)

    def cells(self, mask: Mask, place: "Place", slack: float = 0.0) -> tuple[Mask, Mask]:
        """The cells (S,) that a mask sets at least and at most, if its edges may be off by `slack` pixels."""
        area = float(self.stride) ** 2
        if self.rule == "nearest":
            centre = max(slack, 0.25)
            seen = self._covered(mask, place, self.stride / 2 - centre)
            return seen >= 4 * centre**2 - 1e-6, seen > 1e-6
        least, most = (self._covered(mask, place, inset) for inset in (slack, -slack))
        if self.rule == "any":
            return least > 1e-6, most > 1e-6
        return 2 * least >= area * (1 + 1e-9), 2 * most >= area * (1 - 0.01 * (slack > 0))

    def coverage(self, mask: Mask, place: "Place") -> npt.NDArray[np.float64]:
        """(n, n) share of each block that a mask covers."""
        n = self.side // self.block
        rows = _shared(mask.shape[0], place.top, place.scale_y, self.block, n, 0.0)
        columns = _shared(mask.shape[1], place.left, place.scale_x, self.block, n, 0.0)
        return np.asarray(rows @ mask @ columns.T / self.block**2)

    def _covered(self, mask: Mask, place: "Place", inset: float) -> npt.NDArray[np.float64]:
        """(S,) area of the mask in each cell, whose sides are moved inwards by `inset` pixels."""
        rows = _shared(mask.shape[0], place.top, place.scale_y, self.stride, self.grid, inset)
        columns = _shared(mask.shape[1], place.left, place.scale_x, self.stride, self.grid, inset)
        return np.asarray(rows @ mask.astype(np.float32) @ columns.T, dtype=np.float64).reshape(-1)


@dataclass(frozen=True)
class Place:
    """The place of an image in the square: its top left corner and the size of its pixels, in pixels of the square."""

    top: float
    left: float
    scale_y: float
    scale_x: float

    def moved(self, down: float, right: float) -> "Place":
        """The same place, moved by pixels of the square."""
        return Place(self.top + down, self.left + right, self.scale_y, self.scale_x)

    def centred(self, height: int, width: int, side: int) -> bool:
        """True if the image is in the middle of the square."""
        below, right = side - self.top - height * self.scale_y, side - self.left - width * self.scale_x
        return abs(self.top - below) < 0.01 and abs(self.left - right) < 0.01


def open_upright(data: bytes) -> tuple[Image.Image, Image.Image] | None:
    """A picture upright and as stored, opened with PIL alone.

    None if PIL refuses the file or if its colours need decisions that are not about alignment (PLAIN).
    """
    try:
        stored = Image.open(io.BytesIO(data))
        stored.load()
        if stored.mode not in PLAIN.get(stored.format or "", ()) or stored.has_transparency_data:
            return None
        upright = ImageOps.exif_transpose(stored).convert("RGB")
    except Exception:  # PIL's plugins raise nearly every type on damaged files; the collator has opened this one
        return None
    return upright, stored.convert("RGB")


def difference(one: Blocks, other: Blocks) -> float:
    """The root mean square difference of two drawings, in levels of 0..255."""
    return float(np.sqrt(np.mean((one - other) ** 2)))


def explained(blocks: Blocks, coverage: npt.NDArray[np.float64]) -> float:
    """The share of the colours' variance that a mask's coverage explains, 0..1: large where the mask is the object."""
    colours = blocks.reshape(-1, 3).astype(np.float64)
    colours -= colours.mean(0)
    mask = coverage.reshape(-1) - coverage.mean()
    total, own = float((colours**2).sum()), float(mask @ mask)
    return 0.0 if total < 1e-9 or own < 1e-9 else float(((mask @ colours) ** 2).sum() / own / total)


def _whole(value: float) -> int:
    return int(np.floor(value + 0.5))


def _shared(size: int, start: float, scale: float, step: int, count: int, inset: float) -> npt.NDArray[np.float32]:
    """(count, size): the length in pixels of the square that each image pixel shares with each interval of `step`."""
    low = start + scale * np.arange(size)
    first = step * np.arange(count)[:, None]
    shared = np.minimum(first + step - inset, low + scale) - np.maximum(first + inset, low)
    return np.asarray(np.maximum(shared, 0), dtype=np.float32)
