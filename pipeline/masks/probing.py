"""Tries pictures in processes of Ray that may die: a task that decodes them, an actor that also holds the teacher."""

from typing import Any

import pyarrow as pa
import ray

from model.errors import StepError, TransientError
from pipeline.compute.resources import Resources
from pipeline.masks.actors import SegmentWork, open_teacher
from pipeline.masks.deaths import cause, is_death, is_wider
from pipeline.masks.pictures import pictures_of, read_pictures
from pipeline.sources.images.store import ImageStore

CONTROL_SECONDS = 120.0  # until an empty task must have ended
DECODE_CPUS = 0.5  # of a decoding task; if equal to an actor's, Ray fuses both and decodes in the actor


class ProbeActor:
    """Holds a whole teacher; runs it on pictures and throws the evidence away."""

    def __init__(self, work: SegmentWork) -> None:
        self._work, (self._phases, _) = work, open_teacher(work)

    def ready(self) -> None:
        """Return when the teacher is loaded."""

    def run(self, shard: int, queries: pa.Table) -> None:
        """Decode the pictures of these queries and run the teacher on them."""
        from pipeline.masks.evidence import segment_shard

        block = read_pictures(self._work.images, shard, queries, needs_pixels=self._work.needs_pixels)
        segment_shard(self._phases, self._work.setup, list(pictures_of(block)))


class RayProber:
    """Runs trials on Ray. An error that the work raises is no death: the process lives, and rows keep their errors."""

    def __init__(self, work: SegmentWork, resources: Resources) -> None:
        self._work, self._resources = work, resources
        self._actor: Any = None

    def survives(self, work: str, shard: int, queries: pa.Table) -> bool:
        """True if the process lives on.

        Raises TransientError if a machine or Ray itself died, which is not the pictures' fault, or if the teacher's
        process dies while it loads; StepError if the teacher cannot be opened.
        """
        whole = pa.Table.from_pylist(queries.to_pylist(), schema=queries.schema)  # a slice would carry its parent
        if work == "decode":
            task = ray.remote(num_cpus=DECODE_CPUS, max_retries=0)(_decode)
            running = task.remote(self._work.images, shard, whole)
        else:
            running = self._opened().run.remote(shard, whole)
        try:
            ray.get(running)
        except Exception as error:
            if not is_death(error):
                return True
            self.close()
            self._check_ray(error)
            return False
        return True

    def close(self) -> None:
        """End the actor."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def _check_ray(self, death: Exception) -> None:
        """Raise TransientError if more died than the process of a trial: an empty task must still work."""
        failure = death
        if not is_wider(death):
            control = ray.remote(num_cpus=DECODE_CPUS, max_retries=0)(_nothing)
            try:
                ray.get(control.remote(), timeout=CONTROL_SECONDS)
                return
            except Exception as error:
                failure = error
        raise TransientError(f"a machine or Ray died while pictures were tried: {cause(failure)}") from failure

    def _opened(self) -> Any:
        """The actor with the loaded teacher: a death while it loads says nothing about pictures."""
        if self._actor is None:
            options = {"num_cpus": self._resources.cpus, "num_gpus": self._resources.gpus_of_one}
            actor = ray.remote(max_restarts=0, **options)(ProbeActor).remote(self._work)
            try:
                ray.get(actor.ready.remote())
            except Exception as error:
                kind = TransientError if is_death(error) else StepError
                raise kind(f"the teacher cannot be opened: {cause(error)}") from error
            self._actor = actor
        return self._actor


def _nothing() -> None:
    """The work of a control."""


def _decode(images: ImageStore, shard: int, queries: pa.Table) -> None:
    read_pictures(images, shard, queries)
