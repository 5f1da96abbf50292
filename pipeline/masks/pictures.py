"""Reads the pictures of a shard, checks that they are those of the inventory, and decodes them with EXIF applied."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.images import ImageError, decode_image
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
        ("reason", pa.string()),  # '' where there are pixels
        ("queries", pa.large_list(pa.struct(list(QUERIES)))),
    ]
)


@dataclass(frozen=True)
class Picture:
    """One picture of a shard and the queries about it."""

    pixels: npt.NDArray[np.uint8] | None
    """(height, width, 3), None if the picture cannot be used."""
    reason: str
    """The reason why it cannot be used; '' if it can."""
    queries: list[dict[str, Any]]
    """Rows of QUERIES."""


def read_pictures(images: ImageStore, shard: int, queries: pa.Table) -> pa.Table:
    """Read and decode the pictures of a shard (rows of QUERIES) into one table (PICTURES).

    A picture that is missing or changed since the inventory fails its own queries only.
    """
    groups: list[list[dict[str, Any]]] = []
    for row in queries.to_pylist():
        if not groups or (groups[-1][0]["image_sha256"], groups[-1][0]["image"]) != (row["image_sha256"], row["image"]):
            groups.append([])
        groups[-1].append(row)
    rows = []
    for group in groups:
        pixels, reason = _read(images, group[0])
        rows.append(
            {
                "shard": shard,
                "images": len(groups),
                "height": group[0]["height"],
                "width": group[0]["width"],
                "pixels": pixels,
                "reason": reason,
                "queries": group,
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
        image = decode_image(images.read_checked(row["image"], row["image_sha256"]))
    except ImageError as error:
        what = "" if error.reason == IMAGE_CHANGED else f"{error.reason}: "
        return None, f"{IMAGE_CHANGED}: {what}{error}"
    if (image.height, image.width) != (row["height"], row["width"]):
        size = f"{image.width} x {image.height}"
        return None, f"{IMAGE_CHANGED}: decodes to {size}, the inventory saw {row['width']} x {row['height']}"
    return np.asarray(image, dtype=np.uint8).tobytes(), ""
