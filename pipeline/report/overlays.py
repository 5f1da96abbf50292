"""Small pictures for the page: an image with a mask laid over it, as a data URI.

What lies outside the mask is dimmed and greyed, so that what the mask holds keeps its own colours whatever they are.
The published mask is outlined in orange, one that the gates refused in blue, the truth in white.
"""

import base64
import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image

from model.images import decode_image
from model.teachers import rle
from pipeline.artifacts.store import Artifact

LONGEST = 320  # pixels of a picture's longer side: sharp at the page's 160 on a dense screen
QUALITY = 82
SHARDS = 64  # shards of a pack that are searched for images: a pack may hold terabytes
ACCEPTED = (255, 122, 20)
REFUSED = (40, 120, 255)
TRUTH = (255, 255, 255)
Rgb = npt.NDArray[np.uint8]  # (H, W, 3)
Mask = npt.NDArray[np.bool_]  # (H, W)


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
    """Draw masks (COCO counts in the frame `size` = height, width) over an image file; returns a data URI.

    Raises DataError if the file is not an image.
    """
    picture = decode_image(content)
    height, width = size
    scale = LONGEST / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    sharp = Image.Resampling.NEAREST if scale > 1.5 else Image.Resampling.LANCZOS
    canvas = np.asarray(picture.resize(target, sharp), dtype=np.float32)
    parts, colour = (refused, REFUSED) if mask is None else ((mask,), ACCEPTED)
    shapes = [_grow(rle.decode(part, height, width), target) for part in parts]
    if shapes:
        canvas = _dim(canvas, ~np.logical_or.reduce(shapes))
    outlines = [(_edge(shape, 3), colour) for shape in shapes]
    if truth is not None:
        shape = _grow(rle.decode(truth, height, width), target)
        # Just outside the object, so that a mask that fits it exactly does not hide below this line.
        outlines.append((_outer(_outer(shape)) & ~shape, TRUTH))
    for line, paint in outlines:
        canvas = _tint(canvas, _outer(line), (0, 0, 0), 0.5)
        canvas = _tint(canvas, line, paint, 1.0)
    return data_uri(Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8)))


def data_uri(picture: Image.Image) -> str:
    """A picture as a WebP data URI."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shrink(content: bytes, longest: int = LONGEST) -> str:
    """An image file (a finished picture, e.g. an attention map) as a data URI, no larger than `longest` pixels."""
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        shown = picture.convert("RGB")
    if max(shown.size) > longest:
        shown.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return data_uri(shown)


def _grow(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize a mask to (width, height) with smooth edges."""
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(soft) >= 128


def _edge(mask: Mask, thickness: int) -> Mask:
    """The pixels of a mask within `thickness` of its border."""
    inner = mask
    for _ in range(thickness):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _outer(mask: Mask) -> Mask:
    """A mask and its direct neighbours."""
    padded = np.pad(mask, 1)
    return mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


def _dim(canvas: npt.NDArray[np.float32], where: Mask) -> npt.NDArray[np.float32]:
    """Take half of the light and most of the colour away."""
    grey = canvas[where].mean(axis=-1, keepdims=True)
    dimmed = canvas.copy()
    dimmed[where] = 0.6 * (0.3 * canvas[where] + 0.7 * grey)
    return dimmed


def _tint(
    canvas: npt.NDArray[np.float32], where: Mask, colour: tuple[int, int, int], share: float
) -> npt.NDArray[np.float32]:
    tinted = canvas.copy()
    tinted[where] = (1 - share) * canvas[where] + share * np.asarray(colour, dtype=np.float32)
    return tinted
