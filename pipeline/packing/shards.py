"""Making and committing the shards of a pack: images read, conversations tokenized, rows written in row groups.

A commit is one file `part-...parquet` in the store's staging folder of the artifact; its rejects and statistics stand
in the file's own metadata, so that the file is the whole commit. It appears by a rename (on an object store: by one
upload), so a rerun finds it whole or not at all.
"""

import hashlib
import json
import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import StepError
from model.images import ImageError
from pipeline.artifacts.store import ArtifactStore
from pipeline.packing.chat import open_chat
from pipeline.packing.rows import Row, RowError, make_row
from pipeline.schemas import PACK, part_name
from pipeline.sources.images import read_image
from pipeline.sources.records import Turn
from pipeline.training.config import PackConfig

METADATA = b"agevlm"  # key of a shard's note in its Parquet schema
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
class ShardJob:
    """What is the same for all shards of a pack. Sent to workers."""

    store: str
    folder: str
    """Where shards are committed, relative to the store's root."""
    count: int
    images: Path
    tokenizer: Path
    config: PackConfig

    def path(self, index: int) -> str:
        """A shard's file, relative to the store's root."""
        return f"{self.folder}/{part_name(index, self.count)}"


def read_note(job: ShardJob, index: int) -> dict[str, Any] | None:
    """Rejects and statistics of a committed shard; None if it is not committed."""
    store = ArtifactStore(job.store)
    try:
        with store.fs.open(store.join(job.path(index)), "rb") as stream:
            metadata = pq.read_schema(stream).metadata or {}
    except FileNotFoundError:
        return None
    return json.loads(metadata[METADATA])  # type: ignore[no-any-return]


def build_shard(job: ShardJob, index: int, records: pa.Table) -> dict[str, Any]:
    """Make and commit one shard from its records (RECORDS); returns its note. The bytes depend on the arguments only.

    Raises StepError if an image is not the one that the inventory saw.
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
    note = {"rejects": rejects, "statistics": dict(sorted(statistics.items()))}
    with committing(job, index) as partial:
        _write(partial, rows, note, job)
    return note


@contextmanager
def committing(job: ShardJob, index: int) -> Iterator[Path]:
    """A local file to write a shard to; it is committed, whole, when the block ends without an error."""
    store = ArtifactStore(job.store)
    target = store.join(job.path(index))
    home = Path(target).parent if store.is_local else Path(tempfile.gettempdir())
    home.mkdir(parents=True, exist_ok=True)
    partial = home / f"{uuid.uuid4().hex}.partial"
    try:
        yield partial
        if store.is_local:
            os.replace(partial, target)
        else:
            store.fs.put_file(str(partial), target)
    finally:
        partial.unlink(missing_ok=True)


def _write(path: Path, rows: list[tuple[dict[str, Any], Row]], note: dict[str, Any], job: ShardJob) -> None:
    schema = PACK.with_metadata({METADATA: json.dumps(note, sort_keys=True).encode("ascii")})
    compressed = [name for name in LEAVES if name != "image"]  # images are compressed as they are
    with pq.ParquetWriter(
        path,
        schema,
        compression=dict.fromkeys(compressed, "zstd") | {"image": "none"},
        use_dictionary=compressed,
    ) as writer:
        for group in _groups(rows, job):
            writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=len(group))


def _groups(rows: list[tuple[dict[str, Any], Row]], job: ShardJob) -> Iterator[list[dict[str, Any]]]:
    """The table's rows with their images, a row group at a time."""
    group: list[dict[str, Any]] = []
    size = 0
    for record, row in rows:
        image = _image(record, job.images)
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


def _image(record: dict[str, Any], root: Path) -> bytes | None:
    """The very bytes that the inventory saw."""
    if not record["has_image"]:
        return None
    remedy = "the raw data changed while it was used; put it back, or run the recipe again on the data as it is now"
    try:
        data = read_image(root, record["image"])
    except ImageError as error:
        raise StepError(f"{error}, but the inventory has it: {remedy}") from error
    if hashlib.sha256(data).hexdigest() != record["image_sha256"]:
        raise StepError(f"image '{record['image']}' is not the file that the inventory saw: {remedy}")
    return data
