"""The Ray Data pipeline: decode (CPU tasks) -> teachers (actors) -> commit, one block = one shard all the way.

Blocks must never be split or merged: a model's output for a row depends on the rest of its batch in the last bits. So
each shard is one read task, its block is kept whole at any size, and the actor refuses a block that is not one shard.
"""

import re
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from model.errors import StepError
from pipeline.artifacts.shards import Seal, Shards
from pipeline.compute.collection import collection_paused
from pipeline.compute.resources import Resources
from pipeline.compute.threads import wait_briefly
from pipeline.masks.config import TeacherSetup
from pipeline.masks.parts import errors_of, evidence_bytes, shard_name
from pipeline.masks.pictures import pictures_of, read_pictures
from pipeline.schemas import part_name
from pipeline.sources.images.store import ImageStore

DECODE_CPUS = 0.5  # of a decoding task; if equal to an actor's, Ray fuses both and decodes in the actor
ACTOR_RESTARTS = 2  # of one actor: a row that kills its process must not restart it for ever
RAISED = re.compile(r"^[\w.]+(Error|Exception|Exit|Died|Crashed)\w*: ")  # last line of a traceback
CAUSE_LENGTH = 1000  # characters
LEAST_BLOCK = 128 << 20  # bytes: Ray's own limit of a block, raised where a shard's pictures need more


@dataclass(frozen=True)
class ShardDone:
    """A shard that an actor committed."""

    index: int
    seal: Seal
    seconds: float
    """Time in the teachers, without decoding."""


class ShardSource(Datasource):  # type: ignore[misc]
    """One read task per shard; each gives one block, the shard's decoded pictures with their queries."""

    def __init__(self, images: ImageStore, shards: Mapping[int, pa.Table]) -> None:
        super().__init__()
        self._images, self._shards = images, shards

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        """One task per shard; Ray's wish for parallelism is ignored."""
        return [self._task(index, queries) for index, queries in self._shards.items()]

    def estimate_inmemory_data_size(self) -> int | None:
        """None: sizes are not known before the pictures are read."""
        return None

    def _task(self, index: int, queries: pa.Table) -> ReadTask:
        images = self._images
        whole = pa.Table.from_pylist(queries.to_pylist(), schema=queries.schema)  # a slice would carry its parent
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return ReadTask(lambda: [read_pictures(images, index, whole)], metadata)


class TeacherActor:
    """Holds both teachers; segments and commits the shards that it is given."""

    def __init__(self, setup: TeacherSetup, shards: Shards, count: int) -> None:
        wait_briefly()
        with collection_paused():
            import torch

            from pipeline.masks.evidence import open_teachers

            torch.set_num_threads(setup.threads)
            if setup.device == "cuda" and not torch.cuda.is_available():
                raise StepError("segment asks for a GPU, but torch sees none; set resources.segment.gpus to 0")
            self._grounding = open_teachers(setup)  # imports the classes of the models
        self._setup, self._shards, self._count = setup, shards, count
        self._device = torch.cuda.get_device_name() if setup.device == "cuda" else "cpu"

    def __call__(self, block: pa.Table) -> pa.Table:
        """Segment and commit one shard (PICTURES); returns one row about it."""
        from pipeline.masks.evidence import segment_shard

        shards, images = set(block["shard"].to_pylist()), set(block["images"].to_pylist())
        if len(shards) != 1 or images != {len(block)}:
            raise StepError(f"a block has {len(block)} pictures of the shards {shards} of {images}: Ray regrouped it")
        index = shards.pop()
        started = time.monotonic()
        table, batches = segment_shard(self._grounding, self._setup, list(pictures_of(block)))
        facts = {"shard": index, "pictures": batches.pictures, "queries": batches.queries, "device": self._device}
        seal = self._shards.commit(
            shard_name(index, self._count),
            {part_name(index, self._count): evidence_bytes(table, facts)},
            len(table),
            {"rejects": errors_of(table), "device": self._device},
        )
        seconds = time.monotonic() - started
        return pa.Table.from_pylist([{"index": index, "seal": seal.to_bytes(), "seconds": seconds}])


def segment_shards(
    shards: Shards,
    missing: Mapping[int, pa.Table],
    count: int,
    images: ImageStore,
    setup: TeacherSetup,
    resources: Resources,
) -> Iterator[ShardDone]:
    """Segment and commit shards; yields each when it is done, in any order.

    Args:
        missing: number of a shard -> its queries (QUERIES), at least one.
        count: number of shards of the whole step, for their names.

    Ray must be connected. Raises StepError with the cause if Ray fails; shards that were committed before are kept.
    """
    _check_room(resources)
    context = DataContext.get_current()
    # Ray splits larger blocks. It also reserves this much memory per task, so the limit is as low as the data allow.
    context.target_max_block_size = max(LEAST_BLOCK, *(block_bytes(queries) for queries in missing.values()))
    context.enable_progress_bars = False
    source = ShardSource(images, missing)
    # Ray splits the blocks if there are fewer read tasks than it wants; this number keeps one block per task.
    blocks = ray.data.read_datasource(source, num_cpus=DECODE_CPUS, override_num_blocks=len(missing))
    with warnings.catch_warnings():
        # Restarts are unlimited by default, and only arguments that Ray 2.60 calls deprecated limit them.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        stream = blocks.map_batches(
            TeacherActor,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(resources.workers, len(missing))),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            fn_constructor_args=(setup, shards, count),
            max_restarts=ACTOR_RESTARTS,
            max_task_retries=ACTOR_RESTARTS,
        )
    left = set(missing)
    try:
        for row in stream.iter_rows():
            seal = Seal.from_bytes(row["seal"])
            assert seal is not None
            left.discard(row["index"])
            yield ShardDone(row["index"], seal, row["seconds"])
    except Exception as error:  # Ray raises several types for errors of its workers
        raise StepError(
            f"segment stopped with {len(left)} of {count} shards left (next: {sorted(left)[:3]}): {_cause(error)}; "
            "committed shards are kept: remove the cause and run the step again"
        ) from error
    if left:
        raise StepError(
            f"Ray ended without {len(left)} of {count} shards (first: {sorted(left)[:3]}); run segment again"
        )


def block_bytes(queries: pa.Table) -> int:
    """An upper bound for the size of a shard's decoded block in bytes, from the image sizes in the inventory."""
    columns = ("image_sha256", "image", "height", "width")
    pictures = set(zip(*(queries[name].to_pylist() for name in columns), strict=True))
    pixels: int = sum(3 * height * width + 4096 for _, _, height, width in pictures)
    return 2 * int(queries.nbytes) + pixels


def _check_room(resources: Resources) -> None:
    """Raise StepError if the cluster is too small for the step: Ray would wait for ever."""
    has = ray.cluster_resources()
    cpus = resources.cpus * resources.workers + DECODE_CPUS
    gpus = resources.gpus * resources.workers
    if has.get("CPU", 0) < cpus or has.get("GPU", 0) < gpus:
        raise StepError(
            f"segment needs {cpus:g} CPUs and {gpus:g} GPUs ({resources.workers} workers and decoding), but Ray has "
            f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g}; lower resources.segment in the recipe"
        )


def _cause(error: BaseException) -> str:
    """The first error of a worker in one line: the cause. Ray passes errors on as the text of a traceback."""
    lines = str(error).splitlines()
    raised = [line.strip() for line in lines if RAISED.match(line.strip())]
    ours = [line for line in raised if line.startswith("model.errors.")]
    return (ours or raised or [f"{type(error).__name__}: {error}"])[0][:CAUSE_LENGTH]
