"""Reads the pictures of a shard, checks that they are those of the inventory, and decodes them with EXIF applied."""

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.images import ImageError, decode_image
from pipeline.artifacts.patience import patiently
from pipeline.schemas import QUERIES
from pipeline.sources.images.store import IMAGE_CHANGED, ImageStore

# One row per picture of a shard: its pixels, or the reason why there are none, and the queries about it.
PICTURES = pa.schema(
    [
        ("shard", pa.int32()),
        ("images", pa.int32()),  # pictures in the whole shard: a block with fewer rows is not the whole shard
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("pixels", pa.large_binary()),  # uint8 (height, width, 3), null if there are none
        ("reason", pa.string()),  # why there are none; '' where the picture can be used
        ("queries", pa.large_list(pa.struct(list(QUERIES)))),
        ("seconds", pa.float64()),  # that reading and decoding took
    ]
)


@dataclass(frozen=True)
class Picture:
    """One picture of a shard and the queries about it."""

    pixels: npt.NDArray[np.uint8] | None
    """(height, width, 3), None if the picture cannot be used, or if the teacher needs none."""
    reason: str
    """The reason why it cannot be used; '' if it can."""
    queries: list[dict[str, Any]]
    """Rows of QUERIES."""

    @property
    def image(self) -> npt.NDArray[np.uint8]:
        """The pixels of a picture that can be used."""
        assert self.pixels is not None, "this picture cannot be used"
        return self.pixels

    @property
    def texts(self) -> list[str]:
        """The texts of the queries."""
        return [row["query"] for row in self.queries]


def pictures_in(queries: pa.Table) -> list[pa.Table]:
    """The queries (QUERIES) of each picture of a shard, in order. Rows of one picture are adjacent."""
    keys = list(zip(queries["image_sha256"].to_pylist(), queries["image"].to_pylist(), strict=True))
    starts = [row for row, key in enumerate(keys) if row == 0 or key != keys[row - 1]]
    return [queries.slice(first, last - first) for first, last in itertools.pairwise([*starts, len(keys)])]


def read_pictures(
    images: ImageStore,
    shard: int,
    queries: pa.Table,
    skip: Mapping[int, str] | None = None,
    needs_pixels: bool = True,
) -> pa.Table:
    """Read and decode the pictures of a shard (rows of QUERIES) into one table (PICTURES).

    A picture that is missing or changed since the inventory fails its own queries only.

    Args:
        skip: number of a picture in the shard -> the reason why it is not read.
        needs_pixels: False to read no picture.
    """
    groups = pictures_in(queries)
    rows = []
    for index, group in enumerate(groups):
        started, asked = time.monotonic(), group.to_pylist()
        if skip and index in skip:
            pixels, reason = None, skip[index]
        else:
            pixels, reason = _read(images, asked[0]) if needs_pixels else (None, "")
        rows.append(
            {
                "shard": shard,
                "images": len(groups),
                "height": asked[0]["height"],
                "width": asked[0]["width"],
                "pixels": pixels,
                "reason": reason,
                "queries": asked,
                "seconds": time.monotonic() - started,
            }
        )
    return pa.Table.from_pylist(rows, schema=PICTURES)


def pictures_of(table: pa.Table) -> Iterator[Picture]:
    """The pictures of a table (PICTURES), in order, without copying their pixels."""
    for row in range(len(table)):
        height, width = table["height"][row].as_py(), table["width"][row].as_py()
        buffer = table["pixels"][row].as_buffer()
        pixels = None if buffer is None else np.frombuffer(buffer, dtype=np.uint8).reshape(height, width, 3)
        yield Picture(pixels, table["reason"][row].as_py(), table["queries"][row].as_py())


def _read(images: ImageStore, row: dict[str, Any]) -> tuple[bytes | None, str]:
    """The pixels of a query's picture, or None and the reason."""
    try:
        what = f"image {row['image']!r} in {images.location}"
        image = decode_image(patiently(what, lambda: images.read_checked(row["image"], row["image_sha256"])))
    except ImageError as error:
        what = "" if error.reason == IMAGE_CHANGED else f"{error.reason}: "
        return None, f"{IMAGE_CHANGED}: {what}{error}"
    if (image.height, image.width) != (row["height"], row["width"]):
        size = f"{image.width} x {image.height}"
        return None, f"{IMAGE_CHANGED}: decodes to {size}, the inventory saw {row['width']} x {row['height']}"
    return np.asarray(image, dtype=np.uint8).tobytes(), ""
