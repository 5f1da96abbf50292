"""This machine as Ray is told of it: CPUs, memory and the size of Ray's object store, within a container's limits."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.local.stack_file import StackError

MEBIBYTE, GIBIBYTE = 1 << 20, 1 << 30

CPUS, OBJECT_STORE = "AGEVLM_CPUS", "AGEVLM_OBJECT_STORE_GIB"
"""Variables that override the number of CPUs and the size of Ray's object store."""

FOR_MODELS = 16 * GIBIBYTE
"""Memory that the object store leaves alone: on a laptop the models of a step need it."""
SHARE = 0.3
"""Share of the memory above FOR_MODELS that the object store may use, as Ray's own default."""
SMALLEST, LARGEST = 512 * MEBIBYTE, 200 * 10**9
"""Bounds of the object store. Shards are tens of megabytes. Ray's own upper bound."""
SMALLEST_IN_SHM = 256 * MEBIBYTE
"""With less than this in /dev/shm Ray keeps its objects in files of its temporary folder."""
RAY_MINIMUM = 75 * MEBIBYTE
"""Ray refuses a smaller object store."""
SHM = Path("/dev/shm")
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class ObjectStore:
    """The size of Ray's object store. `note`: a sentence for the user, or ''."""

    bytes: int
    note: str = ""


def usable_cpus(env: Mapping[str, str] = os.environ) -> int:
    """CPUs that this process may use: its affinity and the quota of its container. AGEVLM_CPUS overrides both."""
    if env.get(CPUS):
        return int(_number(env, CPUS, 1, 100_000))
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def memory_bytes(root: Path = GROUPS, own: Path = OWN_GROUPS) -> int:
    """Memory of this machine, or the limit of its container if that is lower. Arguments as of `cpu_quota`."""
    names = ("memory.max", "memory.limit_in_bytes")
    texts = [_text(folder / name) for folder in group_folders("memory", root, own) for name in names]
    return min([psutil.virtual_memory().total, *(int(text) for text in texts if text.isdigit() and int(text) > 0)])


def cpu_quota(root: Path = GROUPS, own: Path = OWN_GROUPS) -> float | None:
    """CPUs that the control groups of this process allow; None without a limit.

    Args:
        root: where the control groups are mounted.
        own: the file that lists the groups of this process.
    """
    found = []
    for folder in group_folders("cpu", root, own):
        quota, _, period = _text(folder / "cpu.max").partition(" ")  # version 2: 'max 100000' or '150000 100000'
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:  # -1 or 'max': no limit
            found.append(int(quota) / int(period))
    return min(found, default=None)


def group_folders(controller: str, root: Path, own: Path) -> list[Path]:
    """Folders of this process's control group and of its parents, in version 1 and 2. Inside a container the group's
    own folder may not be visible; its limits are then at the root."""
    found = [root, root / controller]
    for line in _text(own).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        group = Path(path.lstrip("/"))
        found += [top / part for part in (group, *group.parents)]
    return list(dict.fromkeys(found))


def object_store(
    memory: int | None = None, shm_free: int | None = None, env: Mapping[str, str] = os.environ
) -> ObjectStore:
    """The size of Ray's object store: SHARE of the memory above FOR_MODELS, within SMALLEST, LARGEST and /dev/shm.

    Args:
        memory: bytes of this machine; measured by default.
        shm_free: free bytes in /dev/shm; measured by default.
        env: the user's variables.

    Raises StackError if AGEVLM_OBJECT_STORE_GIB is not a number, or more than the memory.
    """
    memory = memory_bytes() if memory is None else memory
    room = (_shm_free() if shm_free is None else shm_free) * 95 // 100
    if env.get(OBJECT_STORE):
        wanted = int(_number(env, OBJECT_STORE, RAY_MINIMUM / GIBIBYTE, memory / GIBIBYTE) * GIBIBYTE)
        return ObjectStore(wanted, _slow(room) if wanted > room else "")
    wanted = int(max(SMALLEST, min(LARGEST, SHARE * (memory - FOR_MODELS))))
    wanted = max(RAY_MINIMUM, min(wanted, memory // 2))
    if room >= min(SMALLEST_IN_SHM, wanted):
        return ObjectStore(min(wanted, room))
    return ObjectStore(min(wanted, SMALLEST), _slow(room))


def shm_usable() -> bool:
    """False if /dev/shm exists and this user cannot write there; Ray only asks how much room it has."""
    return not SHM.exists() or os.access(SHM, os.W_OK | os.X_OK)


def _slow(room: int) -> str:
    if not shm_usable():
        return f"{SHM} is not writable, so Ray keeps its objects in files, which is slower"
    return (
        f"/dev/shm has room for {room >> 20} MiB only, so Ray keeps its objects in files, which is slower; free some "
        "of it, or start a container with --shm-size=2g"
    )


def _shm_free() -> int:
    """Free bytes in /dev/shm; where the system has none, Ray keeps its objects elsewhere: then no limit."""
    if not shm_usable():
        return 0
    try:
        status = os.statvfs(SHM)
    except OSError:
        return LARGEST
    return status.f_frsize * status.f_bavail


def _number(env: Mapping[str, str], name: str, low: float, high: float) -> float:
    try:
        value = float(env[name])
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise StackError(f"{name}={env[name]!r}: give a number from {low:.3g} to {high:.5g}, or unset it")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
