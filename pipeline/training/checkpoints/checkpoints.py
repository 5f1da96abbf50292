"""Checkpoints while a stage trains: resumes from the newest one, decides when the next is due, writes it aside.

The training loop stops only while the state is copied to host memory. One background thread writes and commits it.
"""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from model.errors import StepError
from pipeline.artifacts.shards import Seal, Shards
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.checkpoints.names import name_of
from pipeline.training.checkpoints.state import HostMemory, Snapshot, capture, restore
from pipeline.training.loop import StageTrainer
from pipeline.training.watch.metrics import world_size

LOAD_ATTEMPTS = 5
"""Attempts to read a checkpoint. An earlier run that still lives may remove one while it is read."""


class Checkpoints:
    """The checkpoints of a running trainer. A context manager: at its end the last write is awaited.

    Args:
        shards: where they are committed; worker 0 writes.
        before_write: called before each write on worker 0; it may raise to end the training.
    """

    def __init__(
        self, trainer: StageTrainer, shards: Shards, rank: int = 0, before_write: Callable[[], None] | None = None
    ) -> None:
        self._trainer, self._rank, self._before_write = trainer, rank, before_write
        self._folder, self._memory = CheckpointFolder(shards), HostMemory()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._last_step, self._last_time = trainer.done, time.monotonic()
        self.resumed_from: list[int] = []
        """Steps from which this stage went on after an interruption, over all its runs."""
        self.blocked_seconds = 0.0
        """Time that the training loop waited for checkpoints, over all its runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the checkpoint that is being written, also after an error of the training: it is worth having."""
        try:
            self._await()
        except Exception as failed:
            if error is None:
                raise
            print(f"the last checkpoint was not written: {failed}", flush=True)
        finally:
            self._thread.shutdown()

    # -- reading

    def resume(self, cache: Path, first_on_machine: bool = True) -> int:
        """Bring the trainer into the state of the newest intact checkpoint, if there is one. Returns the steps done.

        Every worker must call this; worker 0 chooses. `cache`: local folder for files of a remote store;
        `first_on_machine`: this worker downloads them.

        Raises StepError if checkpoints keep disappearing while they are read.
        """
        for _ in range(LOAD_ATTEMPTS):
            chosen = self._chosen()
            if chosen is None:
                break
            step, seal = chosen
            state = self._loaded(seal, cache, first_on_machine)
            if state is not None:
                self.resumed_from = [*state["resumed_from"], step]
                self.blocked_seconds = state["checkpoint_seconds"]
                if self._rank == 0:
                    print(f"training goes on from checkpoint {name_of(step)}", flush=True)
                break
        else:
            raise StepError(
                f"{self._trainer.row.name}: a checkpoint was removed {LOAD_ATTEMPTS} times while it was read; another "
                "run of this stage is alive: wait until it has ended, or run again"
            )
        self._last_step, self._last_time = self._trainer.done, time.monotonic()
        return self._trainer.done

    def _chosen(self) -> tuple[int, Seal] | None:
        """The newest intact checkpoint, the same on all workers."""
        found: list[tuple[int, Seal] | None] = [None]
        if self._rank == 0:
            self._folder.sweep()
            found = [next(self._folder.intact(), None)]
        if world_size() > 1:
            dist.broadcast_object_list(found, src=0)
        return found[0]

    def _loaded(self, seal: Seal, cache: Path, first_on_machine: bool) -> dict[str, Any] | None:
        """Load a checkpoint into the trainer; None if its files are gone on some worker."""
        folder = self._local(seal, cache) if first_on_machine else None
        if world_size() > 1:
            dist.barrier()
        folder = folder or self._local(seal, cache)
        state = None
        if folder is not None:
            try:
                state = restore(self._trainer, folder / Path(seal.files[0].path).parent, self._rank)
            except FileNotFoundError as error:
                print(f"checkpoint file {error.filename or error} is gone; looking again", flush=True)
        loaded = torch.tensor(0 if state is None else 1, device=self._trainer.device)
        if world_size() > 1:
            dist.all_reduce(loaded, op=dist.ReduceOp.MIN)
        if first_on_machine and folder is not None and not self._folder.shards.is_local:
            shutil.rmtree(folder, ignore_errors=True)  # a copy from a remote store
        return state if int(loaded) else None

    def _local(self, seal: Seal, cache: Path) -> Path | None:
        """Local folder with a checkpoint's files; None if they are gone."""
        try:
            return self._folder.shards.local(seal, cache)
        except FileNotFoundError as error:
            print(f"checkpoint file {error.filename or error} is gone; looking again", flush=True)
            return None

    # -- writing

    def after_step(self, has_row: bool) -> None:
        """Raise an error of the writing thread; take a checkpoint if one is due. Every worker must call this."""
        if self._writing is not None and self._writing.done():
            self._await()
        trainer = self._trainer
        # After the last step the stage itself is committed.
        if has_row and trainer.done < trainer.order.steps and self._due():
            self.save()

    def save(self) -> None:
        """Take a checkpoint now. Every worker must call this, at a step with a row of metrics."""
        started, trainer = time.monotonic(), self._trainer
        self._await()  # at most one is written at a time
        snapshot = capture(trainer, self._memory, keep=self._rank == 0)
        seconds = time.monotonic() - started
        trainer.log.window.add(checkpoint_seconds=seconds)
        self.blocked_seconds += seconds
        if snapshot is not None:
            snapshot.state.update(resumed_from=self.resumed_from, checkpoint_seconds=self.blocked_seconds)
            self._writing = self._thread.submit(self._write, snapshot)
        self._last_step, self._last_time = trainer.done, time.monotonic()

    def _due(self) -> bool:
        """Worker 0 decides by its clock or by the steps done, and the others follow."""
        execution = self._trainer.execution
        if execution.checkpoint_steps is not None:
            due = self._trainer.done - self._last_step >= execution.checkpoint_steps
        else:
            due = time.monotonic() - self._last_time >= 60 * execution.checkpoint_minutes
        if world_size() == 1:
            return due
        decision = torch.tensor(int(due), device=self._trainer.device)
        dist.broadcast(decision, src=0)
        return bool(decision)

    def _write(self, snapshot: Snapshot) -> None:
        """Commit a snapshot and remove old checkpoints; runs in the background thread of worker 0."""
        if self._before_write is not None:
            self._before_write()
        self._folder.commit(snapshot)
        self._folder.prune(self._trainer.execution.keep_checkpoints)

    def _await(self) -> None:
        """Wait for the write that is running, and raise its error."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
