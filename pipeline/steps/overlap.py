"""overlap: find duplicates inside each data set, and images that two data sets share.

The ids of all records are first divided into bucket files by the records' keys, so that equal keys meet in one bucket.
So memory holds one bucket, and the data sets are read once. The result depends on the records only, not on the files
that they lie in.
"""

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.artifacts.manifest import Counts
from pipeline.overlap.buckets import Buckets, bucket_count
from pipeline.overlap.digests import CONTENT, IMAGE, content_digests, image_keys
from pipeline.overlap.find import Shared, find_duplicates, find_shared
from pipeline.schemas import OVERLAP, part_name
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.record_batches import record_batches

COLUMNS = ["sample_id", "image_sha256", "turns"]
LISTED = ("pretrain", "instruct")
"""The data sets whose records are listed; they are those that a recipe can drop records of."""


@dataclass
class DatasetFacts:
    """The counts of one data set; `statistics` of the artifact."""

    records: int = 0
    images: int = 0
    duplicates: int = 0
    images_in: Counter[str] = field(default_factory=Counter)
    images_in_others: int = 0
    records_on_images_in: Counter[str] = field(default_factory=Counter)

    def add(self, shared: Shared) -> None:
        """Add the images of one bucket."""
        self.images += shared.images
        self.images_in.update(shared.images_in)
        self.images_in_others += shared.images_in_others
        self.records_on_images_in.update({other: len(rows) for other, rows in shared.rows.items()})

    def to_json(self) -> dict[str, Any]:
        """The facts by name."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


def run(context: StepContext) -> Outcome:
    """Compare the three data sets and list the records concerned."""
    sizes = {name: artifact.manifest.counts.rows_out for name, artifact in context.inputs.items()}
    total = sum(sizes.values())
    count = bucket_count(total)
    # A folder of its own, because another run of this step may work on the same machine.
    folder = Path(tempfile.mkdtemp(prefix="buckets-", dir=context.work()))
    contents, images, done = {}, {}, 0
    facts = {name: DatasetFacts() for name in context.inputs}
    for name in context.inputs:
        contents[name] = Buckets(folder / name / "contents", CONTENT, count)
        images[name] = Buckets(folder / name / "images", IMAGE, count)
        facts[name].records = _deal(context, name, contents[name], images[name], done, total)
        done += facts[name].records
    for number in range(count):
        repeated = {name: find_duplicates(buckets.read(number)) for name, buckets in contents.items()}
        shared = find_shared({name: buckets.read(number) for name, buckets in images.items()})
        for name in context.inputs:
            facts[name].duplicates += len(repeated[name])
            facts[name].add(shared[name])
            if name in LISTED:
                listed = pa.concat_tables([repeated[name], *shared[name].rows.values()]).sort_by(_BY)
                context.staging.write_table(part_name(number, count, name), listed)
    shutil.rmtree(folder, ignore_errors=True)
    counts = Counts(unit=context.step.unit, rows_in=done, rows_out=done)
    return Outcome(counts, {name: found.to_json() for name, found in facts.items()})


_BY = [(name, "ascending") for name in OVERLAP.names]


def _deal(context: StepContext, name: str, contents: Buckets, images: Buckets, done: int, total: int) -> int:
    """Put the ids of a data set into buckets, by content and by image; returns the number of records."""
    folder, seen = context.input_path(name, "records/"), 0
    files = [folder / file for file in context.inputs[name].matching("records/", ".parquet")]
    with contents, images:
        for batch in record_batches(files, COLUMNS):
            ids, checksums = batch["sample_id"], batch["image_sha256"]
            contents.write(content_digests(checksums, batch["turns"]), ids)
            shown = checksums.is_valid()
            images.write(image_keys(checksums.filter(shown)), ids.filter(shown))
            seen += len(batch)
            context.progress.update(done + seen, total)
    return seen
