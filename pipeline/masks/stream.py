"""The Ray Data pipeline: decode (CPU tasks) -> teachers (actors) -> commit, one block = one shard all the way.

Blocks must never be split or merged: a model's output for a row depends on the rest of its batch in the last bits. So
each shard is one read task, its block is kept whole at any size, and the actor refuses a block that is not one shard.

Deaths: Ray makes tasks and actors again, by default for ever. Here every try of a shard leaves a note (attempts.py),
and after SUSPECT deaths the shard comes back untried. When the rest is done, the pictures of such shards are tried one
by one (poison.py), and the stream starts again without those that kill their process.
"""

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from model.errors import StepError, TransientError
from pipeline.artifacts.shards import Seal
from pipeline.compute.resources import Pool, Resources
from pipeline.masks.actors import SegmentWork, TeacherActor, suspect_block
from pipeline.masks.deaths import OURS, cause, is_death
from pipeline.masks.pictures import read_pictures
from pipeline.masks.poison import Poison
from pipeline.masks.probing import DECODE_CPUS, RayProber

ACTOR_RESTARTS = 8  # of one actor; after that the stream ends, and starts again if there was progress
TASK_RETRIES = 6  # of one shard in an actor: one death costs up to two, and the notes end it after SUSPECT deaths
MAX_FAILURES = 2  # starts of the stream in a row that brought no progress
FIRST_SUSPECTS = 2  # suspect shards, with none committed, after which the stream stops and looks at them
LEAST_BLOCK = 128 << 20  # bytes: Ray's own limit of a block, raised where a shard's pictures need more


@dataclass(frozen=True)
class ShardDone:
    """A shard that an actor committed."""

    index: int
    seal: Seal


class ShardSource(Datasource):  # type: ignore[misc]
    """One read task per shard; each gives one block, the shard's decoded pictures with their queries."""

    def __init__(self, work: SegmentWork, shards: Mapping[int, pa.Table], poison: Poison) -> None:
        super().__init__()
        self._work, self._shards, self._poison = work, shards, poison

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        """One task per shard; Ray's wish for parallelism is ignored."""
        return [self._task(index, queries) for index, queries in self._shards.items()]

    def estimate_inmemory_data_size(self) -> int | None:
        """None: sizes are not known before the pictures are read."""
        return None

    def _task(self, index: int, queries: pa.Table) -> ReadTask:
        work, skip = self._work, self._poison.of(self._work.name(index))
        whole = pa.Table.from_pylist(queries.to_pylist(), schema=queries.schema)  # a slice would carry its parent
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return ReadTask(lambda: [decode(work, index, whole, skip)], metadata)


def decode(work: SegmentWork, index: int, queries: pa.Table, skip: Mapping[int, str]) -> pa.Table:
    """The block (PICTURES) of a shard, or of a suspect shard a block that says so."""
    name = work.name(index)
    if work.attempts.suspect(name):
        return suspect_block(index)
    with work.attempts.noted(name, "decode"):
        return read_pictures(work.images, index, queries, skip, work.needs_pixels)


def segment_shards(
    work: SegmentWork,
    missing: Mapping[int, pa.Table],
    poison: Poison,
    resources: Resources,
    check: Callable[[int], None],
) -> Generator[ShardDone, None, None]:
    """Segment and commit shards; yields each when it is done, in any order.

    Args:
        missing: number of a shard -> its queries (QUERIES), at least one.
        poison: what is known about pictures that kill their process; extended where a shard kills its process.
        check: called with the number of queries of a shard's poison while it is searched; may raise an error to stop.

    Ray must be connected. Raises StepError with the cause if the work fails, if processes keep dying without progress,
    or if everything kills its process; shards that were committed before are kept.
    """
    _check_room(resources)
    left, failures, proven = dict(missing), 0, len(missing) < work.count
    failure: TransientError | None
    prober = RayProber(work, resources)
    while left:
        before, searched = len(left), False
        try:
            for index, content in _stream(work, left, poison, resources):
                seal = None if content is None else Seal.from_bytes(content)
                if seal is not None:
                    del left[index]
                    proven = True
                    yield ShardDone(index, seal)
                elif len(left) == before and len(work.attempts.suspects()) >= FIRST_SUSPECTS:
                    break
            failure = None
        except TransientError as error:
            failure = error
        try:
            # By the notes, because a stream that fails does not hand back all suspect shards.
            names = work.attempts.suspects()
            for index in [index for index in left if work.name(index) in names]:
                poison.search(work.name(index), index, left[index], prober, check, proven)
                searched = True
        except TransientError as error:
            failure = error
        finally:
            prober.close()
        if searched or len(left) < before:
            failures = 0
        if failure is None and (searched or not left):
            continue
        failures += 1
        reason = "Ray ended too early" if failure is None else cause(failure)
        what = f"segment: {reason}; {len(left)} of {work.count} shards left"
        if failures > MAX_FAILURES:
            raise StepError(
                f"{what}; {failures} failures in a row without a new shard; committed shards are kept: see the logs of "
                "Ray's workers, remove the cause and run the step again"
            ) from failure
        print(f"{what}; starting again ({failures} of {MAX_FAILURES})", flush=True)


def _stream(
    work: SegmentWork, left: Mapping[int, pa.Table], poison: Poison, resources: Resources
) -> Iterator[tuple[int, bytes | None]]:
    """Run the pipeline once; yields the number of each shard with its seal, or None if it is suspect.

    Raises TransientError if processes died more often than Ray may make them again, StepError for other errors.
    """
    context = DataContext.get_current()
    # Ray splits larger blocks. It also reserves this much memory per task, so the limit is as low as the data allow.
    context.target_max_block_size = max(LEAST_BLOCK, *(block_bytes(queries) for queries in left.values()))
    context.enable_progress_bars = False
    source = ShardSource(work, left, poison)
    # Ray splits the blocks if there are fewer read tasks than it wants; this number keeps one block per task.
    stream = ray.data.read_datasource(source, num_cpus=DECODE_CPUS, override_num_blocks=len(left))
    second = resources.second_pool
    pools: list[tuple[Pool | Resources, int, int | None]] = [(resources, 0, 1 if second else None)]
    if second:
        pools.append((second, 1, None))
    with warnings.catch_warnings():
        # Restarts are unlimited by default, and only arguments that Ray 2.60 calls deprecated limit them.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        for pool, first, last in pools:
            stream = stream.map_batches(
                TeacherActor,
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=min(pool.workers, len(left))),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
                fn_constructor_args=(work, first, last),
                max_restarts=ACTOR_RESTARTS,
                max_task_retries=TASK_RETRIES,
            )
    try:
        for row in stream.iter_rows():
            yield row["index"], row["seal"]
    except Exception as error:  # Ray raises several types for errors of its workers
        if is_death(error):
            raise TransientError(f"a process or machine died: {cause(error)}") from error
        reason = cause(error)
        remedy = "" if reason.startswith(OURS) else "; committed shards are kept: remove the cause and run again"
        raise StepError(
            f"segment stopped with {len(left)} of {work.count} shards left (next: {sorted(left)[:3]}): {reason}{remedy}"
        ) from error


def block_bytes(queries: pa.Table) -> int:
    """An upper bound for the size of a shard's decoded block in bytes, from the image sizes in the inventory."""
    columns = ("image_sha256", "image", "height", "width")
    pictures = set(zip(*(queries[name].to_pylist() for name in columns), strict=True))
    pixels: int = sum(3 * height * width + 4096 for _, _, height, width in pictures)
    return 2 * int(queries.nbytes) + pixels


def _check_room(resources: Resources) -> None:
    """Raise StepError if the cluster is too small for the step: Ray would wait for ever."""
    has = ray.cluster_resources()
    cpus, gpus = resources.all_cpus + DECODE_CPUS, resources.all_gpus
    if has.get("CPU", 0) < cpus or has.get("GPU", 0) < gpus:
        raise StepError(
            f"segment needs {cpus:g} CPUs and {gpus:g} GPUs ({resources} for its workers, and decoding), but Ray has "
            f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g}; lower resources.segment in the recipe"
        )
