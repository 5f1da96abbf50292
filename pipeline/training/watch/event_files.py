"""TensorBoard event files of a stage, in the store: `tensorboard/<row>-<id>/events...`.

On a local disk the file is written in place. For an object store it is written on this machine and uploaded by a thread
every few seconds, so that training does not wait. A run that goes on begins a new file with the rows of the runs before
it, and removes theirs: so curves have each step once.
"""

import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.artifacts import filesystem
from pipeline.artifacts.spec import short
from pipeline.artifacts.store import ArtifactStore

UPLOAD_SECONDS = 10.0
FLUSH_SECONDS = 5
FOLDER = "tensorboard"


def event_folder(row: str, artifact: str) -> str:
    """Folder of a stage's event files, relative to the store's root."""
    return f"{FOLDER}/{row}-{short(artifact)}"


class EventFiles:
    """Writes the scalars of one stage as a `Tracker`. Replaces the event files that are there."""

    def __init__(self, store: ArtifactStore, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._store, self._target = store, store.join(folder)
        self._aside = None if store.is_local else tempfile.TemporaryDirectory(prefix="agevlm-events-")
        local = Path(self._target if self._aside is None else self._aside.name)
        local.mkdir(parents=True, exist_ok=True)
        self._old = self._listing()
        # purge_step tells a TensorBoard that runs already to forget what it read from the files before.
        self._writer = SummaryWriter(str(local), purge_step=0, flush_secs=FLUSH_SECONDS)
        self._file = Path(self._writer._get_file_writer().event_writer._file_name)  # type: ignore[no-untyped-call]
        if self._aside is None:
            self._remove_old()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._upload_often, name="event files", daemon=True)
        if self._aside is not None:
            self._thread.start()

    @property
    def location(self) -> str:
        """Path or URL of the folder above all stages' files."""
        parent = self._target.rpartition("/")[0]
        return parent if self._store.is_local else str(self._store.fs.unstrip_protocol(parent))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one value per name."""
        now = time.time()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=now)

    def close(self) -> None:
        """Write, and upload, what is left."""
        self._writer.close()
        if self._aside is not None:
            self._stop.set()
            self._thread.join()
            self._upload()
            self._aside.cleanup()

    def _listing(self) -> list[str]:
        with suppress(FileNotFoundError):
            return [str(path) for path in self._store.fs.find(self._target)]
        return []

    def _remove_old(self) -> None:
        for path in self._old:
            filesystem.remove(self._store.fs, path)
        self._old = []

    def _upload_often(self) -> None:
        while not self._stop.wait(UPLOAD_SECONDS):
            try:
                self._upload()
            except OSError as error:  # curves must not end the training; `close` tries once more and may raise
                print(f"event files were not uploaded, and will be later: {error}", flush=True)

    def _upload(self) -> None:
        self._store.fs.put_file(str(self._file), f"{self._target}/{self._file.name}")
        self._remove_old()
