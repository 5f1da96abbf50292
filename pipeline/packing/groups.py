"""Rows of a pack as Arrow tables: one table is one row group of a shard's Parquet file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.packing.rows import Row
from pipeline.schemas import PACK

GROUP_BYTES = 64 << 20  # a row group is closed at this size: it is read as a whole, and Arrow's arrays end at 2 GB
_SPANS = PACK.field("turns").type.value_type
_SPAN_NAMES = [field.name for field in _SPANS]


@dataclass(frozen=True, slots=True)
class PackedRow:
    """A row without its image, in few bytes: a shard's rows wait in this form until their images are read."""

    sample_id: str
    image: str | None
    """Locator of the image (`pipeline.sources.images.locators`); None for text only."""
    image_sha256: str | None
    tokens: npt.NDArray[np.int32]
    """(3, tokens): ids, first characters, last characters."""
    target: npt.NDArray[np.bool_]
    turns: npt.NDArray[np.int32]
    """(turns, 5): the values of a span in the order of the schema."""

    @property
    def nbytes(self) -> int:
        """Bytes of the row in a table."""
        return int(self.tokens.nbytes + self.target.nbytes + self.turns.nbytes) + len(self.sample_id)


def packed(record: dict[str, Any], row: Row) -> PackedRow:
    """The row of a record (sample_id, has_image, image, image_sha256)."""
    return PackedRow(
        sample_id=record["sample_id"],
        image=record["image"] if record["has_image"] else None,
        image_sha256=record["image_sha256"],
        tokens=np.array([row.input_ids, row.token_starts, row.token_ends], dtype=np.int32),
        target=np.array(row.target, dtype=bool),
        turns=np.array([[turn[name] for name in _SPAN_NAMES] for turn in row.turns], dtype=np.int32),
    )


def write_rows(
    path: Path, rows: Sequence[PackedRow], group_rows: int, image_of: Callable[[PackedRow], bytes | None]
) -> None:
    """Write a shard. A row group has `group_rows` rows, or fewer where they have more than GROUP_BYTES."""
    compressed = [name for name in LEAVES if name != "image"]  # images are compressed as they are
    with pq.ParquetWriter(
        path,
        PACK,
        compression=dict.fromkeys(compressed, "zstd") | {"image": "none"},
        use_dictionary=compressed,
        write_statistics=compressed,  # of the images, they would be two whole images in each page
        write_page_checksum=True,
    ) as writer:
        for group, images in _groups(rows, group_rows, image_of):
            writer.write_table(_table(group, images), row_group_size=len(group))


def _groups(
    rows: Sequence[PackedRow], group_rows: int, image_of: Callable[[PackedRow], bytes | None]
) -> Iterator[tuple[list[PackedRow], list[bytes | None]]]:
    """One row group at a time, so that only one group's images are in memory."""
    group: list[PackedRow] = []
    images: list[bytes | None] = []
    total = 0
    for row in rows:
        image = image_of(row)
        size = row.nbytes + len(image or b"")
        if group and (len(group) == group_rows or total + size > GROUP_BYTES):
            yield group, images
            group, images, total = [], [], 0
        group.append(row)
        images.append(image)
        total += size
    if group:
        yield group, images


def _table(group: Sequence[PackedRow], images: Sequence[bytes | None]) -> pa.Table:
    lengths = [row.tokens.shape[1] for row in group]
    token_ends, turn_ends = _ends(lengths), _ends([len(row.turns) for row in group])
    tokens = np.concatenate([row.tokens for row in group], axis=1)
    target = np.concatenate([row.target for row in group])
    turns = np.concatenate([row.turns for row in group])
    spans = pa.StructArray.from_arrays([pa.array(column) for column in turns.T], fields=list(_SPANS))
    columns = {
        "sample_id": pa.array([row.sample_id for row in group], pa.string()),
        "image": pa.array(images, pa.binary()),
        "image_bytes": pa.array([len(image or b"") for image in images], pa.int32()),
        "image_sha256": pa.array([row.image_sha256 if row.image else None for row in group], pa.string()),
        "length": pa.array(lengths, pa.int32()),
        "input_ids": pa.ListArray.from_arrays(token_ends, pa.array(tokens[0])),
        "target": pa.ListArray.from_arrays(token_ends, pa.array(target)),
        "token_starts": pa.ListArray.from_arrays(token_ends, pa.array(tokens[1])),
        "token_ends": pa.ListArray.from_arrays(token_ends, pa.array(tokens[2])),
        "turns": pa.ListArray.from_arrays(turn_ends, spans),
    }
    return pa.table(columns, schema=PACK)


def _ends(lengths: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _leaves(prefix: str, kind: pa.DataType) -> list[str]:
    """Parquet's names of the columns below an Arrow column."""
    if pa.types.is_list(kind):
        return _leaves(f"{prefix}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [name for field in kind for name in _leaves(f"{prefix}.{field.name}", field.type)]
    return [prefix]


LEAVES = [name for field in PACK for name in _leaves(field.name, field.type)]
