"""The Ray Data pipeline: decode (CPU tasks) -> teachers (actors) -> commit, one block = one shard all the way.

Blocks must never be split or merged, because rows that are computed in other groups have other bits: each shard is
one read task, its block is kept whole whatever its size, and the actor refuses a block that is not a whole shard.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from model.errors import AgevlmError, StepError
from pipeline.masks.pictures import pictures_of, read_pictures
from pipeline.masks.setup import TeacherSetup
from pipeline.masks.shards import Commits, commit
from pipeline.recipe import Resources

DECODE_CPUS = 0.5  # of a decoding task; not what an actor asks, else Ray would fuse the two and overlap nothing
ACTOR_RESTARTS = 2  # of one actor: a row that kills its process must not do so for ever
WHOLE_BLOCKS = 1 << 40  # bytes: no shard is larger, so none is split


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
    context.target_max_block_size = WHOLE_BLOCKS
    context.enable_progress_bars = False
    source = ShardSource(root, {index: shards[index] for index in missing})
    stream = ray.data.read_datasource(source, num_cpus=DECODE_CPUS).map_batches(
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
    """The message of the innermost error of ours, or else of the innermost one at all."""
    chain = [error]
    while (inner := chain[-1].__cause__ or getattr(chain[-1], "cause", None)) is not None and inner not in chain:
        chain.append(inner)
    ours = [item for item in chain if isinstance(item, AgevlmError)]
    last = (ours or chain)[-1]
    return " ".join(f"{type(last).__name__}: {last}".split())[:1000]
