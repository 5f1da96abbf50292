"""The checkpoints of a stage in the store: one shard of the commit protocol each, named by its step.

A shard 'step-00000512' has its files in a folder 'step-00000512-WRITER', where WRITER is drawn anew for each write. So
two writers (a new run, and workers of an earlier one that still live) never touch each other's files: the first seal
wins, and the other writer finds an intact checkpoint of the same step, which is as good.
"""

import uuid
from collections.abc import Iterator

from model.errors import ArtifactError
from pipeline.artifacts.shards import Seal, Shards
from pipeline.training.checkpoints.names import name_of, sealed_steps
from pipeline.training.checkpoints.state import OPTIMIZER, STATE, WEIGHTS, Snapshot

TRIES = 3
"""Attempts to commit a checkpoint whose files another process removes."""


class CheckpointFolder:
    """The checkpoints of one stage, with the inputs that it has now."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def steps(self) -> list[int]:
        """The steps that have a sealed checkpoint, the newest first. They are not checked."""
        return sealed_steps(self.shards)

    def intact(self) -> Iterator[tuple[int, Seal]]:
        """The checkpoints whose checksums are right, the newest first. A damaged one is named in the log and removed.

        It is removed so that it does not take the place of a good one among those that are kept.
        """
        for step in self.steps():
            try:
                seal = self.shards.checked(name_of(step))
            except ArtifactError as error:
                print(f"checkpoint {name_of(step)} is not used: {error}", flush=True)
                self.shards.remove(name_of(step))
                continue
            yield step, seal

    def commit(self, snapshot: Snapshot) -> None:
        """Write a checkpoint. If one of its step is sealed and intact already, it stays."""
        name = name_of(snapshot.step)
        for attempt in range(1, TRIES + 1):
            folder = f"{name}-{uuid.uuid4().hex[:8]}"
            files = {
                f"{folder}/{WEIGHTS}": snapshot.write_weights,
                f"{folder}/{OPTIMIZER}": snapshot.write_optimizer,
                f"{folder}/{STATE}": snapshot.write_state,
            }
            try:
                self.shards.commit(name, files, snapshot.state["samples"])
                return
            except FileNotFoundError:
                # Another process removed the files while they were written: it keeps newer ones, or it began after us.
                if any(step > snapshot.step for step in self.steps()):
                    return
                if attempt == TRIES:
                    raise

    def prune(self, keep: int) -> None:
        """Remove all but the latest `keep` sealed checkpoints, by their steps.

        Steps and not times decide, so an earlier run that still writes cannot remove the newest ones.
        """
        for step in self.steps()[keep:]:
            self.shards.remove(name_of(step))

    def sweep(self) -> None:
        """Remove files that no seal lists: their writers were killed. For a run that begins."""
        self.shards.sweep()
