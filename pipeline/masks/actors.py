"""The processes of mask generation: actors that hold a teacher's phases, and one shard's way through them.

One actor holds all phases, or the first phase and the others are in two pools of actors. Then the first pool hands its
results on in the block, as JSON.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from model.errors import StepError
from pipeline.artifacts.shards import Shards
from pipeline.compute.collection import collection_paused
from pipeline.compute.step_gauges import connected
from pipeline.compute.threads import wait_briefly
from pipeline.masks.attempts import Attempts
from pipeline.masks.config import TeacherSetup
from pipeline.masks.parts import errors_of, evidence_bytes, shard_name
from pipeline.masks.pictures import PICTURES, pictures_of
from pipeline.schemas import part_name
from pipeline.sources.images.store import ImageStore

SUSPECT_REASON = "suspect"
"""Reason in the block of a shard that is not tried as a whole."""
HANDED = pa.schema([*PICTURES, ("handed", pa.large_string())])
"""PICTURES with a JSON object in the first row: the results of the first pool and its figures."""


@dataclass(frozen=True)
class SegmentWork:
    """All that the processes of a step need to know. Can be sent to workers."""

    shards: Shards
    count: int
    """Shards of the whole step, for their names."""
    images: ImageStore
    setup: TeacherSetup
    attempts: Attempts
    phases: Sequence[str]
    """'module:function' of each phase of the teacher."""
    carried: Sequence[str] = ()
    """'module:class' of the results of each phase but the last."""
    needs_pixels: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of its metrics."""

    def name(self, index: int) -> str:
        """The name of a shard."""
        return shard_name(index, self.count)


@dataclass
class Figures:
    """Seconds of a shard in the actors that worked on it."""

    models: float = 0.0
    """Inside the teacher's phases."""
    actors: float = 0.0
    """From the end of the actor's shard before, or its first call, to the end of this one: with all waiting."""
    batches: dict[str, list[int]] = field(default_factory=dict)


def open_teacher(work: SegmentWork, first: int = 0, last: int | None = None) -> tuple[list[Any], str]:
    """Load the phases [first, last) in this process. Returns them and the device's name. Raises StepError."""
    from pipeline.masks.teachers.table import open_entries

    wait_briefly()
    with collection_paused():
        # A teacher without weights needs no torch, which takes seconds to import.
        device = _prepare_torch(work.setup) if work.setup.weights else "cpu"
        return open_entries(work.phases[first:last], work.setup), device  # imports the classes of the models


def _prepare_torch(setup: TeacherSetup) -> str:
    """The name of torch's device. Raises StepError if there is none."""
    import torch

    torch.set_num_threads(setup.threads)
    if setup.device != "cuda":
        return "cpu"
    if not torch.cuda.is_available():
        raise StepError("segment asks for a GPU, but torch sees none; set resources.segment.gpus to 0")
    return torch.cuda.get_device_name()


class TeacherActor:
    """Holds the phases [first, last) of a teacher; works on the shards that it is given.

    Blocks (PICTURES, or HANDED by the pool before) must be whole shards. The last pool commits them and returns a row
    with 'index' and 'seal'; an earlier one returns HANDED. A shard at which processes died is handed back ('seal' is
    null), so that no retry of Ray tries it for ever.
    """

    def __init__(self, work: SegmentWork, first: int = 0, last: int | None = None) -> None:
        self._phases, self._device = open_teacher(work, first, last)
        self._work, self._first, self._is_last = work, first, last in (None, len(work.phases))
        self._ended: float | None = None
        self._gauges: Any = None
        if connected():
            from pipeline.compute.gauges import Gauges

            self._gauges = Gauges("segment", work.tags)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Work on one shard."""
        index = _shard_of(block)
        name = self._work.name(index)
        called = time.monotonic()
        started = called if self._ended is None else self._ended
        if block["reason"][0].as_py() == SUSPECT_REASON or self._work.attempts.suspect(name):
            return suspect_block(index) if not self._is_last else _row(index, None)
        with self._work.attempts.noted(name, f"phase-{self._first}"):
            made, models = self._segment(index, name, block, started)
        self._ended = time.monotonic()
        if self._gauges is not None:
            seconds = {"queue": called - started, "model": models, "actor": self._ended - started}
            self._gauges.add({f"{name}_seconds": value for name, value in seconds.items()})
        return made

    def _segment(self, index: int, name: str, block: pa.Table, started: float) -> tuple[pa.Table, float]:
        """The block for the pool after this one, or the row of the commit; and the seconds inside the phases."""
        from pipeline.masks.carried import from_json, to_json
        from pipeline.masks.evidence import ShardWork
        from pipeline.masks.teachers.table import named

        work, before = ShardWork(self._work.setup, list(pictures_of(block))), Figures()
        if self._first:
            handed = json.loads(block["handed"][0].as_py())
            work.found = from_json(handed["found"], named(self._work.carried[self._first - 1]))
            before = Figures(**handed["figures"])
            work.batches |= before.batches
        clock = time.monotonic()
        work.run(self._phases)
        now = time.monotonic()
        own = now - clock
        figures = Figures(before.models + own, before.actors + now - started, work.batches)
        if not self._is_last:
            handed = json.dumps({"found": to_json(work.found), "figures": vars(figures)})
            column = pa.array([handed] * len(block), pa.large_string())
            return block.append_column(HANDED.field("handed"), column), own
        table = work.table()
        seconds = {
            "decode": round(sum(block["seconds"].to_pylist()), 4),
            "models": round(figures.models, 4),
            "actors": round(figures.actors, 4),
        }
        seal = self._work.shards.commit(
            name,
            {
                part_name(index, self._work.count): evidence_bytes(
                    table, {"shard": index, **work.batches, "device": self._device}
                )
            },
            len(table),
            {"rejects": errors_of(table), "device": self._device, "seconds": seconds, "images": len(block)},
        )
        return _row(index, seal.to_bytes()), own


def suspect_block(index: int) -> pa.Table:
    """A block that stands for a shard which is not tried as a whole."""
    row = {"shard": index, "images": 1, "height": 0, "width": 0, "reason": SUSPECT_REASON, "queries": [], "seconds": 0}
    return pa.Table.from_pylist([row], schema=PICTURES)


def _shard_of(block: pa.Table) -> int:
    shards, images = set(block["shard"].to_pylist()), set(block["images"].to_pylist())
    if len(shards) != 1 or images != {len(block)}:
        raise StepError(f"a block has {len(block)} pictures of the shards {shards} of {images}: Ray regrouped it")
    return int(shards.pop())


def _row(index: int, seal: bytes | None) -> pa.Table:
    return pa.table({"index": pa.array([index], pa.int32()), "seal": pa.array([seal], pa.binary())})
