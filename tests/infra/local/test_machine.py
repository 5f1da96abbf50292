"""CPUs, memory and the size of Ray's object store, on small and large machines and inside containers."""

import os
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local import machine
from infra.local.folders import Folders
from infra.local.machine import GIBIBYTE, MEBIBYTE, ObjectStore, cpu_quota, memory_bytes, object_store, usable_cpus
from infra.local.roles.ray import ray_command
from infra.local.roles.table import ROLES
from infra.local.stack_file import StackError, StackState

ROOMY = 1 << 50


@pytest.mark.parametrize(
    ("memory", "shm", "wanted"),
    [
        (8 * GIBIBYTE, ROOMY, 512 * MEBIBYTE),  # a laptop: memory stays for models
        (16 * GIBIBYTE, ROOMY, 512 * MEBIBYTE),
        (24 * GIBIBYTE, ROOMY, int(2.4 * GIBIBYTE)),
        (64 * GIBIBYTE, ROOMY, int(14.4 * GIBIBYTE)),
        (2048 * GIBIBYTE, ROOMY, 200 * 10**9),  # a host with 8 GPUs
        (512 * MEBIBYTE, ROOMY, 256 * MEBIBYTE),
        (64 * GIBIBYTE, GIBIBYTE, GIBIBYTE * 95 // 100),  # never more than /dev/shm has
    ],
)
def test_the_object_store_follows_the_machine(memory: int, shm: int, wanted: int) -> None:
    assert object_store(memory, shm, {}) == ObjectStore(wanted)


def test_with_dockers_small_shared_memory_objects_go_to_files_and_the_user_is_told() -> None:
    found = object_store(64 * GIBIBYTE, 64 * MEBIBYTE, {})
    assert found.bytes == 512 * MEBIBYTE
    assert "/dev/shm has room for 60 MiB only" in found.note
    assert "--shm-size=2g" in found.note


@given(memory=st.integers(256 * MEBIBYTE, 1 << 43), shm=st.integers(0, 1 << 43))
def test_its_bounds_hold_on_every_machine(memory: int, shm: int) -> None:
    found = object_store(memory, shm, {})
    assert 75 * MEBIBYTE <= found.bytes <= min(200 * 10**9, memory)  # Ray refuses less than 75 MiB
    assert found.note or found.bytes <= shm
    larger = object_store(memory + GIBIBYTE, shm, {})
    assert larger.bytes >= found.bytes


def test_a_variable_gives_another_size() -> None:
    assert object_store(64 * GIBIBYTE, ROOMY, {"AGEVLM_OBJECT_STORE_GIB": "1.5"}).bytes == int(1.5 * GIBIBYTE)
    assert "/dev/shm" in object_store(64 * GIBIBYTE, GIBIBYTE, {"AGEVLM_OBJECT_STORE_GIB": "2"}).note


@pytest.mark.parametrize("text", ["much", "0.01", "65", "-1", "nan", "inf"])
def test_a_size_that_cannot_be_is_refused_with_its_bounds(text: str) -> None:
    with pytest.raises(StackError, match=r"AGEVLM_OBJECT_STORE_GIB='.*' *: give a number from 0.0732 to 64"):
        object_store(64 * GIBIBYTE, ROOMY, {"AGEVLM_OBJECT_STORE_GIB": text})


def test_cpus_are_those_of_affinity_quota_or_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for quota, cpus in ((None, 8), (2.5, 3), (0.5, 1), (64.0, 8)):
        monkeypatch.setattr(machine, "cpu_quota", lambda quota=quota: quota)
        assert usable_cpus({}) == cpus
    assert usable_cpus({"AGEVLM_CPUS": "5"}) == 5
    with pytest.raises(StackError, match="AGEVLM_CPUS='0': give a number from 1"):
        usable_cpus({"AGEVLM_CPUS": "0"})


@pytest.mark.parametrize(
    ("own", "files", "cpus", "limit"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, 1.5, GIBIBYTE),  # a container, v2
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ("0::/a.slice/b\n", {"a.slice/cpu.max": "200000 100000\n", "a.slice/b/memory.max": "4096\n"}, 2.0, 4096),
        (
            "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n",  # version 1; the group's own folder is not visible
            {
                "cpu/cpu.cfs_quota_us": "50000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": "2147483648\n",
            },
            0.5,
            2 * GIBIBYTE,
        ),
        ("4:memory:/\n2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, None),
        ("", {}, None, None),  # no control groups
    ],
)
def test_the_limits_of_control_groups(
    own: str, files: dict[str, str], cpus: float | None, limit: int | None, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert cpu_quota(tmp_path / "groups", tmp_path / "own") == cpus
    total = psutil.virtual_memory().total
    assert memory_bytes(tmp_path / "groups", tmp_path / "own") == (total if limit is None else limit)


def test_where_shared_memory_is_not_writable_ray_keeps_its_objects_in_files(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = ROLES["ray"].with_ports(StackState(id="x", cpus=4))
    plasma = f"--plasma-directory={folders.ray}"
    assert plasma not in ray_command(state, folders)
    monkeypatch.setattr(os, "access", lambda path, mode: path != machine.SHM)
    if machine.SHM.exists():
        assert object_store().bytes == machine.SMALLEST
        assert object_store().note.startswith("/dev/shm is not writable, so Ray keeps its objects in files")
        assert plasma in ray_command(state, folders)
