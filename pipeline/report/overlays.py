"""Small pictures for the page: an image with masks drawn over it, as a data URI.

Outside the mask the image is dimmed and greyed, so that what the mask holds keeps its own colours whatever they are.
The published mask is outlined in orange, one that the gates refused in blue, the truth in white.
"""

import base64
import io
from collections.abc import Iterable

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.images import decode_image
from model.teachers import rle
from pipeline.artifacts.store import Artifact

LONGEST = 320
"""Pixels of a picture's longer side: twice what the page shows, so that it is sharp on a dense screen."""
QUALITY = 82
SHARDS = 64
"""Shards of a pack that are searched for images: a pack may hold terabytes."""
GROUND = (150, 150, 150)
ACCEPTED, REFUSED, TRUTH = (255, 122, 20), (40, 120, 255), (255, 255, 255)


def images_of(pack: Artifact, sample_ids: Iterable[str]) -> dict[str, bytes]:
    """The image files of these samples, as far as the first shards of the pack hold them.

    Only the columns of ids are read until a shard holds a wanted sample, then only that sample's row groups.
    """
    wanted, found = set(sample_ids), dict[str, bytes]()
    for file in pack.matching("part-", ".parquet")[:SHARDS]:
        if len(found) == len(wanted):
            break
        with pack.open(file) as stream:
            table = pq.ParquetFile(stream)
            for group in range(table.metadata.num_row_groups):
                ids = table.read_row_group(group, columns=["sample_id"]).column(0).to_pylist()
                rows = [i for i, sample in enumerate(ids) if sample in wanted and sample not in found]
                if rows:
                    images = table.read_row_group(group, columns=["image"]).column(0)
                    found |= {ids[i]: images[i].as_py() for i in rows if images[i].is_valid}
    return found


def overlay(
    content: bytes, size: tuple[int, int], mask: str | None, refused: tuple[str, ...], truth: str | None
) -> str:
    """As `draw`, as a data URI."""
    return data_uri(draw(content, size, mask, refused, truth))


def draw(
    content: bytes | None,
    size: tuple[int, int],
    mask: str | None,
    refused: tuple[str, ...],
    truth: str | None,
    longest: int = LONGEST,
) -> Image.Image:
    """Draw masks (COCO counts in the frame `size` = height, width) over an image file.

    content: None draws on a plain ground, where the image is not at hand.
    longest: pixels of the picture's longer side.

    Raises DataError if the file is not an image.
    """
    picture = Image.new("RGB", (size[1], size[0]), GROUND) if content is None else decode_image(content)
    scale = longest / max(size)
    target = (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)))
    canvas = picture.resize(target, Image.Resampling.NEAREST if scale > 1.5 else Image.Resampling.LANCZOS)
    parts, colour = (refused, REFUSED) if mask is None else ((mask,), ACCEPTED)
    shapes = [_shape(part, size, target) for part in parts]
    if shapes:
        inside = shapes[0]
        for shape in shapes[1:]:
            inside = ImageChops.lighter(inside, shape)
        dimmed = ImageEnhance.Brightness(ImageEnhance.Color(canvas).enhance(0.3)).enhance(0.6)
        canvas = Image.composite(canvas, dimmed, inside)
    lines = [(ImageChops.subtract(shape, _inner(shape, 3)), colour) for shape in shapes]
    if truth is not None:
        shape = _shape(truth, size, target)
        # Just outside the object: the line of a mask that fits it exactly must not hide this one.
        lines.append((ImageChops.subtract(_outer(shape, 2), shape), TRUTH))
    for line, paint in lines:
        canvas.paste((0, 0, 0), mask=_outer(line, 1).point(lambda value: value // 2))
        canvas.paste(paint, mask=line)
    return canvas


def shrink(content: bytes, longest: int = LONGEST) -> str:
    """A finished picture, such as an attention map, as a data URI of at most `longest` pixels a side."""
    with Image.open(io.BytesIO(content)) as picture:
        shown = picture.convert("RGB")
    shown.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return data_uri(shown)


def data_uri(picture: Image.Image) -> str:
    """An RGB picture as a WebP data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _shape(counts: str, size: tuple[int, int], target: tuple[int, int]) -> Image.Image:
    """A mask in the picture's size (width, height), with smooth edges: 255 inside, 0 outside."""
    soft = Image.fromarray(rle.decode(counts, *size).astype(np.uint8) * 255).resize(target, Image.Resampling.BILINEAR)
    return soft.point(lambda value: 255 if value >= 128 else 0)


def _inner(shape: Image.Image, by: int) -> Image.Image:
    """The shape without its outermost `by` pixels; the picture's own edge counts as an edge of the shape."""
    return ImageOps.crop(ImageOps.expand(shape, by).filter(ImageFilter.MinFilter(2 * by + 1)), by)


def _outer(shape: Image.Image, by: int) -> Image.Image:
    """The shape with `by` more pixels around it."""
    return shape.filter(ImageFilter.MaxFilter(2 * by + 1))
