"""The loader: the order of the index with any number of processes, errors as they are, and no process left."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import DataError, TransientError
from model.miniature.world import make_scene, render
from model.stage_table import STAGES
from pipeline.masks.cell_builder import build_cells
from pipeline.masks.cells import CellSettings
from pipeline.schemas import MASKS, part_name
from pipeline.training.config import StageConfig
from pipeline.training.data.batches import Batch, Collator
from pipeline.training.data.index import PackIndex
from pipeline.training.data.loader import loaded, micro_batches
from pipeline.training.data.order import Address, SampleOrder
from pipeline.training.data.pack_files import PackFiles
from pipeline.training.data.pack_reader import PackReader
from pipeline.training.data.samples import Samples, open_samples
from tests.pipeline.training.data.fixtures_tracing import Tracing, ids
from tests.pipeline.training.data.test_pack_reader import write_pack
from tests.pipeline.training.fixtures_tiny_training import SIDE, STRIDE, jpeg

CONFIG = StageConfig(global_batch=6, epochs=2, held_out=0, length_window=3, tail="keep")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """23 rows in 4 shards, every third without an image."""
    folder = tmp_path_factory.mktemp("pack")
    pictures = [None if i % 3 == 2 else jpeg(render(make_scene(i))[0]) for i in range(23)]
    write_pack(folder, [pictures[i : i + 6] for i in range(0, 23, 6)])
    return open_samples(PackIndex.read(PackFiles.local(folder)), STAGES["stage4"], CONFIG, seed=0)


def run(samples: Samples, start: int, processes: int, collate: Collator | None = None) -> Iterator[list[Batch]]:
    return loaded(samples.order, samples.reader, collate or Tracing(), 0, 1, 2, start, processes, 2)


def equal(one: Batch, other: Batch) -> bool:
    for field in fields(Batch):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, torch.Tensor):
            if not (isinstance(theirs, torch.Tensor) and mine.dtype == theirs.dtype and torch.equal(mine, theirs)):
                return False
        elif field.name != "notes" and mine != theirs:
            return False
    return ids(one) == ids(other)


def descendants() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_batches_are_those_of_the_order_with_any_number_of_processes_and_any_start(samples: Samples) -> None:
    expected = list(run(samples, 0, 0))
    for step, parts in enumerate(expected):
        addresses = micro_batches(samples.order, samples.reader, 0, 1, 2, step)
        assert [ids(part) for part in parts] == [[f"{a.shard}-{a.row}" for a in part] for part in addresses]
    seen = Counter(name for parts in expected for part in parts for name in ids(part))
    assert len(seen) == 23
    assert set(seen.values()) == {2}  # two epochs
    state = torch.get_rng_state()
    before: set[int] = set()
    for processes, start in ((1, 0), (3, 0), (3, 4)):
        found = list(run(samples, start, processes))
        assert len(found) == len(expected) - start
        for mine, theirs in zip(found, expected[start:], strict=True):
            assert len(mine) == len(theirs)
            assert all(map(equal, mine, theirs))
        pids = {part.notes["pid"] for parts in found for part in parts}
        assert len(pids) == processes
        assert os.getpid() not in pids
        assert {part.notes["threads"] for parts in found for part in parts} == {1}
        before = before or descendants()  # the fork server stays for the next loader
        assert descendants() == before
        assert not pids & descendants()
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_in_a_process_arrives_as_itself_and_ends_the_loader(samples: Samples) -> None:
    before = descendants()
    batches = run(samples, 0, 2, Tracing(broken="1-3"))
    with pytest.raises(DataError, match=r"^1-3 is broken$"):
        list(batches)
    assert len(descendants() - before) <= 2  # the fork server and its resource tracker, if they are new
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_a_loader_that_is_closed_early_leaves_no_process(samples: Samples) -> None:
    list(run(samples, samples.order.steps - 1, 1))  # starts the fork server
    before = descendants()
    batches = run(samples, 0, 2, Tracing(slow=0.05))
    next(batches)
    assert len(descendants() - before) == 2
    batches.close()  # type: ignore[attr-defined]
    assert descendants() == before
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.mark.system
def test_a_process_that_is_killed_is_an_error_with_a_remedy(samples: Samples) -> None:
    batches = run(samples, 0, 1, Tracing(slow=0.2))
    pid = next(batches)[0].notes["pid"]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(TransientError, match=rf"a loader process died: .*{pid}.*loader_processes"):
        list(batches)


@settings(max_examples=40)
@given(
    shards=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    batch=st.integers(1, 7),
    micro_batch=st.integers(1, 4),
    workers=st.integers(1, 4),
    window=st.integers(1, 3),
)
def test_workers_have_equally_many_parts_and_every_row_once_an_epoch(
    tmp_path_factory: pytest.TempPathFactory,
    shards: list[int],
    batch: int,
    micro_batch: int,
    workers: int,
    window: int,
) -> None:
    folder = tmp_path_factory.mktemp("pack")
    write_pack(folder, [[None] * size for size in shards])
    index = PackIndex.read(PackFiles.local(folder))
    rows = [torch.arange(size).numpy() for size in shards]
    lengths = [index.lengths(shard) for shard in range(len(index))]
    order = SampleOrder(rows, 0, 2, batch, None, lengths, window, "keep")
    reader, seen = PackReader(index), Counter[Address]()
    for step in range(order.steps):
        of_workers = [micro_batches(order, reader, rank, workers, micro_batch, step) for rank in range(workers)]
        assert len({len(parts) for parts in of_workers}) == 1
        assert all(len(part) <= micro_batch for parts in of_workers for part in parts)
        seen.update(address for parts in of_workers for part in parts for address in part)
    assert len(seen) == sum(shards)
    assert set(seen.values()) == {2}


def test_a_step_that_does_not_fill_the_workers_has_empty_parts(samples: Samples) -> None:
    """Seven workers share six rows: each makes a batch, and together they have the step's rows."""
    parts = [next(loaded(samples.order, samples.reader, Tracing(), rank, 7, 2, 0)) for rank in range(7)]
    assert [len(part) for part in parts] == [1] * 7
    assert sorted(len(ids(part[0])) for part in parts) == [0] + [1] * 6
    assert sum(part[0].tokens for part in parts) > 0


def test_a_table_of_cells_travels_as_its_folder(tmp_path: Path) -> None:
    """Else each loader process would get a copy of all masks."""
    (tmp_path / "masks").mkdir()
    pq.write_table(MASKS.empty_table(), tmp_path / "masks" / part_name(0, 1))
    table = build_cells(tmp_path / "masks", tmp_path / "cells", CellSettings(SIDE, STRIDE))
    again = pickle.loads(pickled := pickle.dumps(table))
    assert len(pickled) < 500
    assert (len(again), again.settings) == (0, table.settings)


ENDLESS = """
import sys
from pathlib import Path
import numpy as np
from pipeline.training.data.index import PackIndex
from pipeline.training.data.loader import loaded
from pipeline.training.data.order import SampleOrder
from pipeline.training.data.pack_files import PackFiles
from pipeline.training.data.pack_reader import PackReader
from tests.pipeline.training.data.fixtures_tracing import Tracing
index = PackIndex.read(PackFiles.local(Path(sys.argv[1])))
order = SampleOrder([np.arange(index.rows)], 0, 10000, 1)
for _ in loaded(order, PackReader(index), Tracing(slow=0.05), 0, 1, 1, 0, 1, 2):
    print("made", flush=True)
"""


@pytest.mark.system  # two imports of torch
def test_loader_processes_end_with_a_training_process_that_is_killed(tmp_path: Path) -> None:
    write_pack(tmp_path, [[None] * 4])
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == b"made\n"
        children = psutil.Process(training.pid).children(recursive=True)
        training.kill()
    assert len(children) == 3  # the fork server, its resource tracker, and a loader process
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        child.kill()
    assert not alive


def test_a_pack_of_text_alone_is_refused_where_nothing_would_learn_from_it(tmp_path: Path) -> None:
    write_pack(tmp_path, [[None] * 4])
    with pytest.raises(DataError, match=r"stage1: none of the 4 rows of pack .* can be trained on.* images"):
        open_samples(PackIndex.read(PackFiles.local(tmp_path)), STAGES["stage1"], CONFIG, seed=0)
