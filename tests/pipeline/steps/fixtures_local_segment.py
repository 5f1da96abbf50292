"""The step segment without Ray: the same reading, actor and commits in this process, one shard after the other."""

from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa
import pytest

from pipeline.artifacts.shards import Seal
from pipeline.compute.resources import Resources
from pipeline.masks import stream
from pipeline.masks.actors import SegmentWork, TeacherActor
from pipeline.masks.poison import Poison
from pipeline.steps import segment


def local_stream(computed: list[int], stop_after: int | None = None) -> Callable[..., Iterator[stream.ShardDone]]:
    """`segment_shards` in this process.

    Args:
        computed: gets the number of each shard that is computed.
        stop_after: shards before a KeyboardInterrupt.
    """

    def segment_shards(
        work: SegmentWork,
        missing: Mapping[int, pa.Table],
        poison: Poison,
        resources: Resources,
        check: Callable[[int], None],
    ) -> Iterator[stream.ShardDone]:
        actor = TeacherActor(work)
        for number, (index, queries) in enumerate(missing.items()):
            if number == stop_after:
                raise KeyboardInterrupt
            computed.append(index)
            row = actor(stream.decode(work, index, queries, poison.of(work.name(index)))).to_pylist()[0]
            seal = Seal.from_bytes(row["seal"])
            assert seal is not None
            yield stream.ShardDone(index, seal)

    return segment_shards


class NoSession:
    """Stands for a Ray session."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def run_without_ray(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Run segment in this process. Returns a list that gets the number of each shard that is computed."""
    computed: list[int] = []
    monkeypatch.setattr(stream, "segment_shards", local_stream(computed))
    monkeypatch.setattr(segment, "session", NoSession)
    return computed
