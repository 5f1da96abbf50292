"""Removing things from a store, and the lock that keeps flow runs from planning with what is being removed.

The lock is `gc/<n>.json`, taken by compare-and-swap and valid for minutes unless renewed, so that a killed `gc` blocks
nobody for long. A flow run first writes its run file and then looks at the lock; `gc` first takes the lock and then
reads the run files. So one of them always sees the other: a run that begins meanwhile waits. The times of the lock
are those of the store, because the clocks of machines differ.
"""

import getpass
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from model.errors import ConfigError, StepError
from pipeline.artifacts import filesystem
from pipeline.artifacts.atomic import write_whole
from pipeline.artifacts.contents import Thing, artifact_folder
from pipeline.artifacts.numbered import Numbered
from pipeline.artifacts.room import disk_fault
from pipeline.artifacts.spec import ArtifactRef
from pipeline.artifacts.store import ArtifactStore
from pipeline.artifacts.tags import LATEST

LOCK = "gc"
CLOCK = f"{LOCK}/clock.json"
RESERVE = f"{LOCK}/reserve"
RESERVE_BYTES = 1 << 16
FAILED = "cannot be removed"
"""Beginning of the reason for a thing that was left because its removal failed."""
VALID_SECONDS = 300.0
"""Time for which a lock holds after it was taken or renewed."""
IF_KILLED = f"; if it was killed, its lock ends within {VALID_SECONDS / 60:.0f} minutes"
"""End of a message about a lock."""
RENEW_SECONDS = 20.0
POLL_SECONDS = 1.0
WAIT_SECONDS = 1800.0
"""Longest time that a flow run waits for `gc`."""


class RemovalLock:
    """The lock of a process that removes; use it as a context. Raises ConfigError if another process has it."""

    def __init__(self, store: ArtifactStore) -> None:
        self._objects = Numbered(store.fs, store.join(LOCK))
        self._store, self._number, self._renewed = store, 0, 0.0

    def __enter__(self) -> "RemovalLock":
        try:
            return self._take()
        except (OSError, StepError) as error:
            if disk_fault(error) is None or not give_up_reserve(self._store):
                raise
        return self._take()

    def _take(self) -> "RemovalLock":
        holder = lock_holder(self._store)
        number = self._objects.current() + 1
        if holder or not self._objects.create(number, self._value()):
            raise ConfigError(
                f"'agevlm gc' is at work on {self._store.root} already ({holder or 'just begun'}); "
                f"wait until it is over{IF_KILLED}"
            )
        self._number, self._renewed = number, time.monotonic()
        self._objects.remove_before(number)
        return self

    def __exit__(self, *_: object) -> None:
        self._store.write_json(f"{LOCK}/{self._number}.json", {"until": 0.0, "by": ""})
        keep_reserve(self._store)

    def renew(self) -> None:
        """Hold on to the lock; call it often. Raises ConfigError if another process took it meanwhile."""
        if time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        if self._objects.current() != self._number or time.monotonic() - self._renewed > VALID_SECONDS:
            raise ConfigError("'agevlm gc' was held up for too long and lost its lock; run it again")
        self._store.write_json(f"{LOCK}/{self._number}.json", self._value())
        self._renewed = time.monotonic()

    def _value(self) -> dict[str, Any]:
        by = f"{getpass.getuser()}@{platform.node()}, process {os.getpid()}"
        return {"until": store_time(self._store) + VALID_SECONDS, "by": by}


def keep_reserve(store: ArtifactStore) -> None:
    """Keep a file on the store's disk that `gc` gives up for its lock when the disk is full. An aid: it may fail."""
    reserve = Path(store.join(RESERVE))
    if store.is_local and not reserve.exists():
        with suppress(OSError), write_whole(reserve) as stream:
            stream.write(os.urandom(RESERVE_BYTES))  # bytes that no file system compresses


def give_up_reserve(store: ArtifactStore) -> bool:
    """Remove the reserve. Returns False if there is none."""
    if not store.is_local:
        return False
    try:
        Path(store.join(RESERVE)).unlink()
    except OSError:
        return False
    return True


def store_time(store: ArtifactStore) -> float:
    """The time by the clock of the store's disk or server, seconds since 1970. Writes a small file."""
    store.write_json(CLOCK, {})
    return filesystem.changed(store.fs.info(store.join(CLOCK)))


def lock_holder(store: ArtifactStore) -> str:
    """The user, host and process that is removing things from a store now; '' if there is none."""
    objects = Numbered(store.fs, store.join(LOCK))
    value = objects.read(objects.current()) or {}
    until = value.get("until")
    return str(value.get("by")) if isinstance(until, int | float) and until and until > store_time(store) else ""


def wait_for_removal(store: ArtifactStore, say: Callable[[str], None], seconds: float = WAIT_SECONDS) -> None:
    """Return once no process is removing things from a store. Raises ConfigError if that takes too long."""
    keep_reserve(store)
    deadline, told = time.monotonic() + seconds, False
    while holder := lock_holder(store):
        if time.monotonic() > deadline:
            raise ConfigError(
                f"'agevlm gc' ({holder}) has been at work on {store.root} for {seconds:.0f} s; run again later"
            )
        if not told:
            say(f"waiting until 'agevlm gc' ({holder}) is over{IF_KILLED}")
            told = True
        time.sleep(POLL_SECONDS)


def remove_all(
    store: ArtifactStore, things: Iterable[Thing], renew: Callable[[], None] = lambda: None
) -> Iterator[tuple[Thing, str]]:
    """Remove things, in the order given. Yields each with '' or the reason why it was left after all.

    Files without a manifest are looked at once more just before: if a writer came back to them they stay. A thing whose
    removal fails is left, and so is every artifact that an artifact that was left was made from.
    """
    held: dict[ArtifactRef, ArtifactRef] = {}  # input -> the artifact that was left
    for thing in things:
        renew()
        child = held.get(thing.ref) if thing.what == "artifact" and thing.ref is not None else None
        try:
            trouble = f"{child} was made from it, and is left" if child else _came_back(store, thing)
            if not trouble:
                _remove(store, thing, renew)
        except OSError as error:
            trouble = f"{FAILED} ({error.strerror or error})"
        if trouble and thing.what == "artifact" and thing.ref is not None:
            held |= dict.fromkeys(thing.parents, thing.ref)
        yield thing, trouble


def _came_back(store: ArtifactStore, thing: Thing) -> str:
    if store.is_local and not thing.paths:
        whole = Path(store.join(thing.path))
        if whole.is_symlink() or (thing.data and (whole / thing.data).is_symlink()):
            return f"{FAILED}: it is a link to another place"
    if thing.what not in ("unfinished shards", "unfinished files", "leftover files") or not thing.path.count("/") >= 2:
        return ""
    if Path(thing.path).is_absolute():
        return ""
    kind, name, id = thing.path.split("/")[:3]
    there = list(artifact_folder(store, ArtifactRef(kind=kind, name=name, id=id)))
    if any(one.data and f"{one.path}/{one.data}" == thing.path for one in there) and thing.what != "leftover files":
        return "it was published meanwhile"
    now = [one for one in there if one.path == thing.path]
    same = [one for one in now if (one.what, one.files, one.changed) == (thing.what, thing.files, thing.changed)]
    return "" if same or not now else "it changed meanwhile"


def _remove(store: ArtifactStore, thing: Thing, renew: Callable[[], None]) -> None:
    """Remove what a thing is made of. An artifact's manifest goes first: from then on the artifact does not exist."""
    if Path(thing.path).is_absolute():
        alone = Path(thing.path)
        shutil.rmtree(alone) if alone.is_dir() and not alone.is_symlink() else alone.unlink(missing_ok=True)
        return
    if thing.what == "artifact" and thing.ref is not None:
        filesystem.remove(store.fs, store.manifest_path(thing.ref))
        # Not the whole folder: another writer may be at another data folder.
        filesystem.remove_tree(store.fs, store.join(thing.path, thing.data), renew)
    for path in thing.paths:
        filesystem.remove(store.fs, path)
        renew()
    if not thing.paths and thing.what != "artifact":
        filesystem.remove_tree(store.fs, store.join(thing.path), renew)
    if store.is_local:
        _tidy(store, thing)


def _tidy(store: ArtifactStore, thing: Thing) -> None:
    """Remove a link `latest` that leads nowhere now, and an id's folder that is empty now (local disk only)."""
    folder = Path(store.join(thing.path))
    if thing.what == "artifact":
        link = folder.parent / LATEST
        if link.is_symlink() and not link.exists():
            link.unlink()
    elif len(Path(thing.path).parts) == 4:  # KIND/NAME/ID/DATA was the last of its folder, perhaps
        folder = folder.parent
    else:
        return
    with suppress(OSError):  # it is not empty, or gone
        folder.rmdir()
