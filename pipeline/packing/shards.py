"""Makes the shards of a pack: tokenizes conversations, reads images, writes rows in row groups."""

from collections import Counter
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from model.errors import ImageError, StepError
from pipeline.artifacts.shards import Content, Seal, Shards
from pipeline.artifacts.staging import REJECT_PARTS, Reject, rejects_table, table_bytes
from pipeline.packing.config import PackConfig
from pipeline.packing.formats import open_format
from pipeline.packing.groups import PackedRow, packed, write_rows
from pipeline.packing.rows import RowError, make_row
from pipeline.schemas import RECORDS, part_name
from pipeline.sources.images.store import ImageStore
from pipeline.sources.records import Turn

NEEDED = pa.schema([RECORDS.field(name) for name in ("sample_id", "has_image", "image", "image_sha256", "turns")])
"""The columns of a record that a pack is made from."""


@dataclass(frozen=True)
class PackJob:
    """The settings that all shards of a pack share. Sent to workers."""

    shards: Shards
    count: int
    dataset: str
    """Name of the data set, for messages."""
    images: ImageStore
    tokenizer: str
    """Path or hub name of the backbone whose tokenizer is used."""
    config: PackConfig

    def name(self, index: int) -> str:
        """Name of a shard's commit: its file's name without the suffix."""
        return part_name(index, self.count).removesuffix(".parquet")


def build_shard(job: PackJob, index: int, records: pa.Table) -> Seal:
    """Make and commit one shard from its records (NEEDED). Equal arguments give equal bytes.

    The seal's facts are 'rejected' (reason -> records), 'first' (detail of the first reject, or '') and 'statistics'.
    The rejects themselves are a second file of the shard, if there are any, because all seals are in memory at the end.
    Raises StepError if an image changed since the inventory.
    """
    form = open_format(job.tokenizer, job.config.template, job.config.system_prompt)
    rejects: list[Reject] = []
    statistics: Counter[str] = Counter()
    rows: list[PackedRow] = []
    for batch in records.to_batches():
        for record in batch.to_pylist():
            turns = [Turn(turn["question"], turn["answer"]) for turn in record["turns"]]
            try:
                row = make_row(form, turns, job.config.max_tokens)
            except RowError as error:
                rejects.append((record["sample_id"], error.reason, str(error)))
                continue
            statistics["turns"] += len(row.turns)
            statistics["turns_dropped"] += row.dropped
            statistics["rows_shortened"] += row.dropped > 0
            statistics["tokens"] += len(row.input_ids)
            statistics["target_tokens"] += sum(row.target)
            statistics["with_image" if record["has_image"] else "text_only"] += 1
            rows.append(packed(record, row))
    image_of = partial(_image, job)
    files: dict[str, Content] = {
        part_name(index, job.count): lambda path: write_rows(path, rows, job.config.row_group_rows, image_of)
    }
    if rejects:
        files[part_name(index, job.count, REJECT_PARTS)] = table_bytes(rejects_table(rejects))
    facts = {
        "rejected": dict(Counter(reason for _, reason, _ in rejects)),
        "first": rejects[0][2] if rejects else "",
        "statistics": dict(sorted(statistics.items())),
    }
    return job.shards.commit(job.name(index), files, len(rows), facts)


def _image(job: PackJob, row: PackedRow) -> bytes | None:
    """The bytes of a row's image, checked against the inventory; None for text only."""
    if row.image is None:
        return None
    try:
        return job.images.read_checked(row.image, row.image_sha256 or "")
    except ImageError as error:
        raise StepError(
            f"{error}, but the inventory has it; restore it, or read all images again with "
            f'force = ["inventory-{job.dataset}"]: a plan checks names and sizes of images, not their content'
        ) from error
