"""The Ray Data pipeline: decode (CPU tasks) -> teachers (actors) -> commit, one block = one shard all the way.

Blocks must never be split or merged, because rows that are computed in other groups have other bits: each shard is
one read task, its block is kept whole whatever its size, and the actor refuses a block that is not a whole shard.
"""

import re
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from model.errors import StepError
from pipeline.masks.pictures import pictures_of, read_pictures
from pipeline.masks.setup import TeacherSetup
from pipeline.masks.shards import Commits, commit
from pipeline.recipe import Resources

DECODE_CPUS = 0.5  # of a decoding task; not what an actor asks, else Ray would fuse the two and overlap nothing
ACTOR_RESTARTS = 2  # of one actor: a row that kills its process must not do so for ever
RAISED = re.compile(r"^[\w.]+(Error|Exception|Exit|Died|Crashed)\w*: ")  # last line of a traceback
CAUSE_LENGTH = 1000  # characters
LEAST_BLOCK = 128 << 20  # bytes: Ray's own limit of a block, raised where a shard's pictures need more


@dataclass(frozen=True)
class ShardDone:
    """What the driver hears of a committed shard."""

    shard: int
    rows: int
    errors: int
    seconds: float
    """Of the teachers, decoding apart."""
    device: str


class ShardSource(Datasource):  # type: ignore[misc]
    """One read task per shard; each gives one block, the shard's decoded pictures with their queries."""

    def __init__(self, root: Path, shards: dict[int, pa.Table]) -> None:
        super().__init__()
        self._root, self._shards = root, shards

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        """One task per shard, whatever parallelism Ray would like."""
        return [self._task(index, queries) for index, queries in self._shards.items()]

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: pictures are not opened before they are read."""
        return None

    def _task(self, index: int, queries: pa.Table) -> ReadTask:
        root = self._root
        whole = pa.Table.from_pylist(queries.to_pylist(), schema=queries.schema)  # a slice would carry its parent
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return ReadTask(lambda: [read_pictures(root, index, whole)], metadata)


class TeacherActor:
    """Holds both teachers, and commits each shard that it is given."""

    def __init__(self, setup: TeacherSetup, paths: dict[int, str]) -> None:
        import torch

        from pipeline.masks.evidence import open_teachers

        torch.set_num_threads(setup.threads)
        if setup.device == "cuda" and not torch.cuda.is_available():
            raise StepError("segment asks for a GPU, but torch sees none; set resources.segment.gpus to 0")
        self._setup, self._paths = setup, paths
        self._grounding = open_teachers(setup)
        self._device = torch.cuda.get_device_name() if setup.device == "cuda" else "cpu"

    def __call__(self, block: pa.Table) -> pa.Table:
        """Segment and commit one shard (PICTURES); returns one row about it."""
        from pipeline.masks.evidence import segment_shard

        shards, images = set(block["shard"].to_pylist()), set(block["images"].to_pylist())
        if len(shards) != 1 or images != {len(block)}:
            raise StepError(f"a block holds {len(block)} pictures of the shards {shards} of {images}: it was regrouped")
        index = shards.pop()
        started = time.monotonic()
        table, batches = segment_shard(self._grounding, self._setup, list(pictures_of(block)))
        facts = {"shard": index, "pictures": batches.pictures, "queries": batches.queries, "device": self._device}
        commit(Path(self._paths[index]), table, facts)
        errors = sum(status == "error" for status in table["status"].to_pylist())
        done = ShardDone(index, len(table), errors, time.monotonic() - started, self._device)
        return pa.Table.from_pylist([vars(done)])


def segment_missing(
    commits: Commits, shards: Sequence[pa.Table], root: Path, setup: TeacherSetup, resources: Resources
) -> Iterator[ShardDone]:
    """Compute and commit every shard that has no commit; yields each as it is done, in any order.

    Ray must be connected. Raises StepError with the cause if Ray gives up; what was committed until then stays.
    """
    missing = [index for index in commits.missing() if len(shards[index])]
    if not missing:
        return
    _check_room(resources)
    context = DataContext.get_current()
    # Above this a block is split. Ray also sets this much memory aside for each task, so it must not be arbitrary.
    context.target_max_block_size = max(LEAST_BLOCK, *(block_bytes(shards[index]) for index in missing))
    context.enable_progress_bars = False
    source = ShardSource(root, {index: shards[index] for index in missing})
    # With fewer read tasks than it would like, Ray cuts their blocks up; asking for just as many keeps them whole.
    blocks = ray.data.read_datasource(source, num_cpus=DECODE_CPUS, override_num_blocks=len(missing))
    with warnings.catch_warnings():
        # Restarts can only be bounded by what Ray 2.60 calls deprecated; by default they are unlimited.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        stream = blocks.map_batches(
            TeacherActor,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(resources.workers, len(missing))),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            fn_constructor_args=(setup, {index: str(commits.path(index)) for index in missing}),
            max_restarts=ACTOR_RESTARTS,
            max_task_retries=ACTOR_RESTARTS,
        )
    try:
        for row in stream.iter_rows():
            yield ShardDone(**row)
    except Exception as error:  # Ray wraps what its workers raise in several types of its own
        left = commits.missing()
        raise StepError(
            f"segment stopped with {len(left)} of {len(shards)} shards left (next: {left[:3]}): {_cause(error)}; "
            "what is committed is kept, so run the step again once the cause is gone"
        ) from error
    lost = commits.missing()
    if lost:
        raise StepError(
            f"{len(lost)} of {len(shards)} shards were computed but are not in {commits.folder} (first: {lost[:3]}); "
            "that folder must be one that all machines of the cluster share: set the site's root or scratch so"
        )


def block_bytes(queries: pa.Table) -> int:
    """An upper bound of the size of a shard's decoded block, from the sizes that the inventory saw."""
    columns = ("image_sha256", "image", "height", "width")
    pictures = set(zip(*(queries[name].to_pylist() for name in columns), strict=True))
    pixels: int = sum(3 * height * width + 4096 for _, _, height, width in pictures)
    return 2 * int(queries.nbytes) + pixels


def _check_room(resources: Resources) -> None:
    """Refuse what Ray would wait for for ever."""
    has = ray.cluster_resources()
    cpus = resources.cpus * resources.workers + DECODE_CPUS
    gpus = resources.gpus * resources.workers
    if has.get("CPU", 0) < cpus or has.get("GPU", 0) < gpus:
        raise StepError(
            f"segment needs {cpus:g} CPUs and {gpus:g} GPUs ({resources.workers} workers and decoding), but Ray has "
            f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g}; lower resources.segment in the recipe"
        )


def _cause(error: BaseException) -> str:
    """What a worker raised, in one line. Ray hands it over as the text of a traceback; the first error is the cause."""
    lines = str(error).splitlines()
    raised = [line.strip() for line in lines if RAISED.match(line.strip())]
    ours = [line for line in raised if line.startswith("model.errors.")]
    return (ours or raised or [f"{type(error).__name__}: {error}"])[0][:CAUSE_LENGTH]
