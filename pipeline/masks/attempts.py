"""Notes in the store about work that may kill its process, so that retries and reruns know what died before.

A note is made before a shard is decoded, or seen by a model, and removed after it, also after an error. So a note that
is left says that its process died, or lives still. Results never depend on notes: they only decide which shards are
looked at picture by picture.
"""

import json
import os
import platform
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.artifacts import filesystem
from pipeline.artifacts.patience import patiently
from pipeline.artifacts.store import ArtifactStore

SUSPECT = 2
"""Deaths after which a shard is not tried as a whole again, before its pictures were looked at one by one."""


@dataclass(frozen=True)
class Attempts:
    """The notes of one step. Can be sent to workers.

    folder: where they are, relative to the store's root.
    """

    store: ArtifactStore
    folder: str

    @contextmanager
    def noted(self, shard: str, work: str) -> Iterator[None]:
        """Keep a note while a block works on a shard. Raises StepError if the store fails (patience)."""
        path = f"{self._folder(shard)}/{work}-{uuid.uuid4().hex}.json"
        content = json.dumps({"host": platform.node(), "process": os.getpid()}).encode()
        patiently(f"the note {path}", lambda: self._write(path, content))
        try:
            yield
        finally:
            patiently(f"the note {path}", lambda: filesystem.remove(self.store.fs, path))

    def deaths(self, shard: str) -> int:
        """Notes of a shard: work that died, or that goes on now."""
        return len(patiently(f"the notes of {shard}", lambda: self._notes(shard)))

    def suspect(self, shard: str) -> bool:
        """True if processes died so often at a shard that its pictures must be looked at one by one."""
        return self.deaths(shard) >= SUSPECT

    def suspects(self) -> set[str]:
        """The names of all suspect shards."""
        found = patiently(f"the notes in {self.folder}", lambda: self._notes(""))
        deaths = Counter(path.split("/")[-2] for path in found)
        return {name for name, count in deaths.items() if count >= SUSPECT}

    def forget(self, shard: str) -> None:
        """Remove the notes of a shard."""
        patiently(f"the notes of {shard}", lambda: filesystem.remove_tree(self.store.fs, self._folder(shard)))

    def forget_all(self) -> None:
        """Remove all notes."""
        folder = self.store.join(self.folder)
        patiently(f"the notes in {folder}", lambda: filesystem.remove_tree(self.store.fs, folder))

    def read_journal(self, shard: str) -> dict[str, str]:
        """The trials of a shard's bisection (pipeline.masks.bisection.Journal)."""
        path = self._journal(shard)
        return dict(patiently(f"the trials in {path}", lambda: self.store.read_json(path)) or {})

    def write_journal(self, shard: str, trials: Mapping[str, str]) -> None:
        """Replace the trials of a shard's bisection."""
        path = self._journal(shard)
        patiently(f"the trials in {path}", lambda: self.store.write_json(path, dict(trials)))

    def _journal(self, shard: str) -> str:
        return f"{self.folder}/{shard}.trials"

    def _folder(self, shard: str) -> str:
        return self.store.join(self.folder, shard).rstrip("/")

    def _notes(self, shard: str) -> list[str]:
        try:
            found = self.store.fs.find(self._folder(shard))
        except FileNotFoundError:
            return []
        return [str(path) for path in found if str(path).endswith(".json")]

    def _write(self, path: str, content: bytes) -> None:
        self.store.fs.makedirs(os.path.dirname(path), exist_ok=True)
        self.store.fs.pipe_file(path, content)
