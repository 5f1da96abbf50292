"""Makes the shards of a pack: reads images, tokenizes conversations, writes rows in row groups."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import StepError
from model.images import ImageError
from pipeline.artifacts.shards import Seal, Shards
from pipeline.packing.chat import open_chat
from pipeline.packing.config import PackConfig
from pipeline.packing.rows import Row, RowError, make_row
from pipeline.schemas import PACK, part_name
from pipeline.sources.images import read_image_of
from pipeline.sources.records import Turn
from pipeline.sources.table import ImageFolder

GROUP_BYTES = 512 << 20  # a row group is closed early at this size: Arrow's binary arrays end at 2 GB


def _leaves(prefix: str, kind: pa.DataType) -> list[str]:
    """Parquet's names of the columns below an Arrow column."""
    if pa.types.is_list(kind):
        return _leaves(f"{prefix}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [name for field in kind for name in _leaves(f"{prefix}.{field.name}", field.type)]
    return [prefix]


LEAVES = [name for field in PACK for name in _leaves(field.name, field.type)]


@dataclass(frozen=True)
class PackJob:
    """The settings that all shards of a pack share. Sent to workers."""

    shards: Shards
    count: int
    dataset: str
    """Name of the data set, for messages."""
    images: ImageFolder
    tokenizer: str
    """Path or hub name of the backbone whose tokenizer is used."""
    config: PackConfig

    def name(self, index: int) -> str:
        """Name of a shard's commit: its file's name without the suffix."""
        return part_name(index, self.count).removesuffix(".parquet")


def build_shard(job: PackJob, index: int, records: pa.Table) -> Seal:
    """Make and commit one shard from its records (RECORDS). Equal arguments give equal bytes.

    The seal's facts are 'rejects' (id, reason, detail) and 'statistics'. Raises StepError if an image changed since
    the inventory.
    """
    chat = open_chat(job.tokenizer, job.config.system_prompt)
    rejects: list[tuple[str, str, str]] = []
    statistics: Counter[str] = Counter()
    rows = []
    for record in records.to_pylist():
        turns = [Turn(turn["question"], turn["answer"]) for turn in record["turns"]]
        try:
            row = make_row(chat, turns, job.config.max_tokens)
        except RowError as error:
            rejects.append((record["sample_id"], error.reason, str(error)))
            continue
        statistics["turns"] += len(row.turns)
        statistics["turns_dropped"] += row.dropped
        statistics["rows_shortened"] += row.dropped > 0
        statistics["tokens"] += len(row.input_ids)
        statistics["target_tokens"] += sum(row.target)
        statistics["with_image" if record["has_image"] else "text_only"] += 1
        rows.append((record, row))
    facts = {"rejects": rejects, "statistics": dict(sorted(statistics.items()))}
    return job.shards.commit(
        job.name(index), {part_name(index, job.count): partial(_write, rows, job)}, len(rows), facts
    )


def _write(rows: list[tuple[dict[str, Any], Row]], job: PackJob, path: Path) -> None:
    images = job.images.path()
    compressed = [name for name in LEAVES if name != "image"]  # images are compressed as they are
    with pq.ParquetWriter(
        path,
        PACK,
        compression=dict.fromkeys(compressed, "zstd") | {"image": "none"},
        use_dictionary=compressed,
    ) as writer:
        for group in _groups(rows, job, images):
            writer.write_table(pa.Table.from_pylist(group, schema=PACK), row_group_size=len(group))


def _groups(rows: list[tuple[dict[str, Any], Row]], job: PackJob, images: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of PACK, one row group at a time, so that only one group's images are in memory."""
    group: list[dict[str, Any]] = []
    size = 0
    for record, row in rows:
        image = _image(record, job, images)
        if group and (len(group) == job.config.row_group_rows or size + len(image or b"") > GROUP_BYTES):
            yield group
            group, size = [], 0
        size += len(image or b"")
        group.append(
            {
                "sample_id": record["sample_id"],
                "image": image,
                "input_ids": row.input_ids,
                "target": row.target,
                "token_starts": row.token_starts,
                "token_ends": row.token_ends,
                "turns": row.turns,
            }
        )
    if group:
        yield group


def _image(record: dict[str, Any], job: PackJob, images: Path) -> bytes | None:
    """The bytes of a record's image, checked against the inventory; None for text only."""
    if not record["has_image"]:
        return None
    try:
        return read_image_of(images, record["image"], record["image_sha256"])
    except ImageError as error:
        raise StepError(
            f"{error}, but the inventory has it; restore it, or read all images again with "
            f'force = ["inventory-{job.dataset}"]: a plan checks names and sizes of images, not their content'
        ) from error
