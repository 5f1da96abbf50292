"""Making and committing the shards of a pack: images read, conversations tokenized, rows written in row groups.

A commit is one file `part-...parquet` in the store's staging folder of the artifact; its rows, rejects and statistics
stand in the file's own metadata, so that the file is the whole commit. It appears by a rename (on an object store: by
one upload), so a rerun finds it whole or not at all.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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
from pipeline.whole import write_whole

Note = dict[str, Any]  # of a shard: number of rows, rejects (id, reason, detail) and statistics
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
    dataset: str
    """Name of the data set."""
    images: Path
    tokenizer: Path
    config: PackConfig

    def path(self, index: int) -> str:
        """A shard's file, relative to the store's root."""
        return f"{self.folder}/{part_name(index, self.count)}"


def read_note(job: ShardJob, index: int, records: int) -> Note | None:
    """The note of a committed shard of so many records; None if it is not committed.

    What cannot be read, or does not account for its records, is no commit. The rows themselves are not read: they are
    terabytes, and were on the disk before the footer was found.
    """
    store = ArtifactStore(job.store)
    try:
        with store.fs.open(store.join(job.path(index)), "rb") as stream:
            footer = pq.read_metadata(stream)
        note: Note = json.loads((footer.metadata or {})[METADATA])
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    return note if footer.num_rows == note["rows"] == records - len(note["rejects"]) else None


def build_shard(job: ShardJob, index: int, records: pa.Table) -> Note:
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
    note = {"rows": len(rows), "rejects": rejects, "statistics": dict(sorted(statistics.items()))}
    with committing(job, index) as stream:
        _write(stream, rows, note, job)
    return note


@contextmanager
def committing(job: ShardJob, index: int) -> Iterator[IO[bytes]]:
    """A stream to write a shard to; it is committed, whole, when the block ends without an error."""
    store = ArtifactStore(job.store)
    target = store.join(job.path(index))
    if store.is_local:
        with write_whole(Path(target)) as stream:
            yield stream
        return
    with tempfile.NamedTemporaryFile() as stream:
        yield stream
        stream.flush()
        store.fs.put_file(stream.name, target)


def _write(stream: IO[bytes], rows: list[tuple[dict[str, Any], Row]], note: Note, job: ShardJob) -> None:
    schema = PACK.with_metadata({METADATA: json.dumps(note, sort_keys=True).encode("ascii")})
    compressed = [name for name in LEAVES if name != "image"]  # images are compressed as they are
    with pq.ParquetWriter(
        stream,
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
        image = _image(record, job)
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


def _image(record: dict[str, Any], job: ShardJob) -> bytes | None:
    """The very bytes that the inventory saw."""
    if not record["has_image"]:
        return None
    remedy = (
        "put it back as it was, or have the images looked at again with "
        f'force = ["inventory-{job.dataset}"]: a plan sees names and sizes of images, not their content'
    )
    try:
        data = read_image(job.images, record["image"])
    except ImageError as error:
        raise StepError(f"{error}, but the inventory has it; {remedy}") from error
    if hashlib.sha256(data).hexdigest() != record["image_sha256"]:
        raise StepError(f"image '{record['image']}' is not the file that the inventory saw; {remedy}")
    return data
