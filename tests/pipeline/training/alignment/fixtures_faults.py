"""Faults that are put into the code between a pack and a batch, or into what it reads."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import model.agevlm.image_processing_agevlm as processing
import model.agevlm.letterbox as letterbox
import model.agevlm.upright as upright
import pipeline.training.data.batches as batches
from model.agevlm.letterbox import Geometry, fit
from pipeline.training.data.batches import query_tokens
from tests.pipeline.training.alignment.fixtures_aligned_rows import BACK, World, entries_of

Patch = pytest.MonkeyPatch
Inject = Callable[[Patch, World], None]


def _masks(change: Callable[[Any], Any]) -> Inject:
    """Another mask in the place of each sample's own, in the table of cells."""

    def inject(patch: Patch, world: World) -> None:
        for row, facts in world.rows:
            world.table[row.sample_id] = entries_of(facts[0], world.square, change(facts[0].mask))

    return inject


def _cells(change: Callable[[Any], Any]) -> Inject:
    def inject(patch: Patch, world: World) -> None:
        for name, entries in world.table.items():
            world.table[name] = [dataclasses.replace(entry, cells=change(entry.cells)) for entry in entries]

    return inject


def _geometry(change: Callable[[Geometry], Geometry], masks: bool = True, pictures: bool = True) -> Inject:
    """Another place of the image in the square: of masks, of pictures, or of both alike."""

    def inject(patch: Patch, world: World) -> None:
        def wrong(*arguments: Any) -> Geometry:
            return change(fit(*arguments))

        if pictures:
            patch.setattr(processing, "fit", wrong)
        if masks:
            patch.setattr(letterbox, "fit", wrong)
        for row, facts in world.rows:
            world.table[row.sample_id] = entries_of(facts[0], world.square)

    return inject


def _shift(down: float, right: float) -> Callable[[Geometry], Geometry]:
    def change(place: Geometry) -> Geometry:
        half = place.stride // 2
        return dataclasses.replace(place, top=place.top + round(down * half), left=place.left + round(right * half))

    return change


def _corner(place: Geometry) -> Geometry:
    return dataclasses.replace(place, top=0, left=0)


def _squash(place: Geometry) -> Geometry:
    return fit(place.height, place.width, place.side, place.stride, "squash")


def _tokens(change: Callable[..., Any]) -> Inject:
    def inject(patch: Patch, world: World) -> None:
        patch.setattr(batches, "query_tokens", change)

    return inject


def _other_part(row: Any, span: Any, start: int, end: int) -> Any:
    return query_tokens(row, span, 0, 1 << 30) & ~query_tokens(row, span, start, end)


def _other_turn(row: Any, span: Any, start: int, end: int) -> Any:
    other = row.spans[(row.spans.index(span) + 1) % len(row.spans)]
    return query_tokens(row, other, start, end)


def _exif_ignored(patch: Patch, world: World) -> None:
    patch.setattr(upright, "orientation", lambda image: 1)


def _exif_backwards(patch: Patch, world: World) -> None:
    patch.setattr(upright, "TURNS", BACK)


def _in_file_frame(patch: Patch, world: World) -> None:
    """Masks of pictures that are stored on their side, in the frame of the file."""
    for row, facts in world.rows:
        world.table[row.sample_id] = entries_of(facts[0], world.square, np.ascontiguousarray(facts[0].mask.T))


def _picture(change: Callable[[Any], Any]) -> Inject:
    def inject(patch: Patch, world: World) -> None:
        real = processing.AgeVlmImageProcessor.canvas

        def canvas(self: Any, image: Any, channels: Any = None) -> Any:
            picture, _ = real(self, change(image), channels)
            return picture, self.geometry(image.height, image.width)

        patch.setattr(processing.AgeVlmImageProcessor, "canvas", canvas)

    return inject


def _cropped(image: Any) -> Any:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _cropped_mask(mask: Any) -> Any:
    side = min(mask.shape)
    top, left = (mask.shape[0] - side) // 2, (mask.shape[1] - side) // 2
    return np.ascontiguousarray(mask[top : top + side, left : left + side])


def _batch(**changes: Callable[[torch.Tensor], torch.Tensor]) -> Inject:
    """A fault in the batch itself."""

    def inject(patch: Patch, world: World) -> None:
        real = batches.Collator.__call__

        def call(self: Any, rows: Any) -> Any:
            batch = real(self, rows)
            found = {name: getattr(batch, name) for name in changes}
            return dataclasses.replace(
                batch, **{name: changes[name](value) for name, value in found.items() if value is not None}
            )

        patch.setattr(batches.Collator, "__call__", call)

    return inject


def _other_sample(patch: Patch, world: World) -> None:
    own = [entries for entries in world.table.values() if entries]
    names = [name for name, entries in world.table.items() if entries]
    for number, name in enumerate(names):
        other = own[(number + 1) % len(own)][0]
        world.table[name] = [dataclasses.replace(own[number][0], cells=other.cells)]


def _offsets(by: int) -> Inject:
    """Offsets in the pack that are wrong: of another text, or of bytes."""

    def inject(patch: Patch, world: World) -> None:
        world.rows = [
            (dataclasses.replace(row, starts=row.starts + by, ends=row.ends + by), facts) for row, facts in world.rows
        ]

    return inject


def _other_picture(patch: Patch, world: World) -> None:
    images = [row.image for row, _ in world.rows]
    world.rows = [
        (dataclasses.replace(row, image=images[number - 1]), facts) for number, (row, facts) in enumerate(world.rows)
    ]


FAULTS: dict[str, Inject] = {
    "tokens shifted by one to the right": _tokens(lambda *a: np.roll(query_tokens(*a), 1)),
    "tokens shifted by one to the left": _tokens(lambda *a: np.roll(query_tokens(*a), -1)),
    "one token too many": _tokens(lambda *a: query_tokens(*a) | np.roll(query_tokens(*a), 1)),
    "char_end one less": _tokens(lambda row, span, a, b: query_tokens(row, span, a, b - 1)),
    "char_start one more": _tokens(lambda row, span, a, b: query_tokens(row, span, a + 1, b)),
    "tokens of another turn": _tokens(_other_turn),
    "answer in place of question": _tokens(_other_part),
    "offsets of the pack are too large": _offsets(2),
    "offsets of the pack are too small": _offsets(-2),
    "crop missing: the mask stretched": _geometry(_squash, pictures=False),
    "crop missing: the mask's middle": _masks(_cropped_mask),
    "crop missing: the picture's middle": _picture(_cropped),
    "picture stretched": _geometry(_squash, masks=False),
    "both stretched": _geometry(_squash),
    "EXIF ignored": _exif_ignored,
    "EXIF turned the wrong way": _exif_backwards,
    "mask in the file's frame": _in_file_frame,
    "mask mirrored": _masks(lambda mask: mask[:, ::-1]),
    "mask upside down": _masks(lambda mask: mask[::-1]),
    "mask turned by 180": _masks(lambda mask: mask[::-1, ::-1]),
    "cells transposed": _cells(lambda cells: cells.T),
    "letterbox off by half a cell to the right": _geometry(_shift(0, 1)),
    "letterbox off by half a cell down": _geometry(_shift(1, 0)),
    "letterbox of masks off by half a cell": _geometry(_shift(0, -1), pictures=False),
    "letterbox of pictures off by half a cell": _geometry(_shift(-1, 0), masks=False),
    "padding at one side": _geometry(_corner),
    "padding at one side, of masks": _geometry(_corner, pictures=False),
    "padding at one side, of pictures": _geometry(_corner, masks=False),
    "mask of another sample": _other_sample,
    "picture of another sample": _other_picture,
    "pictures in another order": _batch(pixels=lambda value: value.roll(1, 0)),
    "masks in another order": _batch(guidance_mask=lambda value: value.roll(1, 0)),
    "guided tokens in another order": _batch(query_mask=lambda value: value.roll(1, 0)),
    "guided rows in another order": _batch(guided=lambda value: value.roll(1, 0)),
    "cell mask in another order": _batch(cell_mask=lambda value: value.roll(1, 0)),
    "pixels mirrored": _batch(pixels=lambda value: value.flip(2)),
    "pixels transposed": _batch(pixels=lambda value: value.transpose(1, 2)),
}
