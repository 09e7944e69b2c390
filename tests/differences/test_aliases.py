"""Two names of one file. virtlockd grants both, and loses the lock of one when the other is released."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.differences.conftest import Scene
from tests.kernel_locks import KernelLock, locks_on
from tests.lock_fixtures import loop_device


def hard_link(scene: Scene, disk: Path) -> Path:
    alias = scene.directory / "hard link"
    alias.hardlink_to(disk)
    return alias


def symbolic_link(scene: Scene, disk: Path) -> Path:
    alias = scene.directory / "symbolic link"
    alias.symlink_to(disk)
    return alias


def bind_mount(scene: Scene, disk: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("a bind mount needs root")
    alias = scene.directory / "bind mount"
    alias.write_bytes(b"")
    scene.daemon.run_inside("mount", "--bind", str(disk), str(alias))
    return alias


def directory_mounted_twice(scene: Scene, disk: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("a bind mount needs root")
    elsewhere = scene.daemon.directory / "elsewhere"
    elsewhere.mkdir()
    scene.daemon.run_inside("mount", "--bind", str(scene.directory), str(elsewhere))
    return elsewhere / disk.name


def roundabout_path(scene: Scene, disk: Path) -> Path:
    """Return another spelling of the path."""
    return disk.parent / ".." / disk.parent.name / disk.name


ALIASES = [hard_link, symbolic_link, bind_mount, directory_mounted_twice, roundabout_path]
Alias = Callable[[Scene, Path], Path]


def held(scene: Scene, disk: Path) -> list[KernelLock]:
    return [lock for lock in locks_on(disk) if lock.pid == scene.daemon.pid]


@pytest.mark.parametrize("make", ALIASES)
def test_virtlockd_grants_an_alias_and_then_loses_the_lock(virtlockd: Scene, make: Alias) -> None:
    disk = virtlockd.disk()
    alias = make(virtlockd, disk)
    assert virtlockd.client.acquire(disk) is None
    assert virtlockd.client.acquire(alias) is None
    assert virtlockd.client.release(alias) is None
    assert held(virtlockd, disk) == []
    assert "is locked" in (virtlockd.client.acquire(disk) or "")


@pytest.mark.parametrize("make", ALIASES)
def test_an_alias_is_busy_and_the_lock_stays(lockd: Scene, make: Alias) -> None:
    disk = lockd.disk()
    alias = make(lockd, disk)
    assert lockd.client.acquire(disk) is None
    refusal = f"resource busy: Lockspace resource '{alias}' is locked by domain \"vm1\" (pid 4000001)"
    assert lockd.client.acquire(alias) == refusal
    assert lockd.client.acquire(alias, flags=1) == refusal
    assert lockd.client.release(alias) == f"resource busy: Lockspace resource '{alias}' is not locked"
    assert held(lockd, disk) == [KernelLock("WRITE", lockd.daemon.pid)]
    assert lockd.client.release(disk) is None
    assert lockd.client.acquire(alias) is None
    assert held(lockd, disk) == [KernelLock("WRITE", lockd.daemon.pid)]


@pytest.mark.parametrize("make", ALIASES)
def test_virtlockd_loses_a_lock_when_an_alias_is_created(virtlockd: Scene, make: Alias) -> None:
    disk = virtlockd.disk()
    alias = make(virtlockd, disk)
    assert virtlockd.client.acquire(disk) is None
    assert virtlockd.client.create(alias) is None
    assert held(virtlockd, disk) == []


@pytest.mark.parametrize("make", ALIASES)
def test_creating_an_alias_leaves_the_lock(lockd: Scene, make: Alias) -> None:
    disk = lockd.disk()
    alias = make(lockd, disk)
    assert lockd.client.acquire(disk) is None
    assert lockd.client.create(alias) is None
    assert held(lockd, disk) == [KernelLock("WRITE", lockd.daemon.pid)]


def test_virtlockd_deletes_a_held_file_by_another_name(virtlockd: Scene) -> None:
    disk = virtlockd.disk()
    alias = roundabout_path(virtlockd, disk)
    assert virtlockd.client.acquire(disk) is None
    assert virtlockd.client.delete(alias) is None
    assert not disk.exists()


def test_a_held_file_is_deleted_by_none_of_its_names(lockd: Scene) -> None:
    disk = lockd.disk()
    alias = roundabout_path(lockd, disk)
    assert lockd.client.acquire(disk) is None
    assert "is locked by domain" in (lockd.client.delete(alias) or "")
    assert disk.exists()


# Block devices


@contextmanager
def nodes_of_a_device(scene: Scene) -> Iterator[list[Path]]:
    """Make two more nodes for a loop device."""
    backing = scene.directory / "backing"
    backing.write_bytes(bytes(1 << 20))
    with loop_device(backing) as device:
        nodes = [scene.directory / "node 1", scene.directory / "node 2"]
        for node in nodes:
            os.mknod(node, stat.S_IFBLK | 0o600, device.stat().st_rdev)
        yield nodes


def test_virtlockd_grants_two_nodes_of_one_block_device(virtlockd: Scene) -> None:
    with nodes_of_a_device(virtlockd) as nodes:
        assert [virtlockd.client.acquire(node) for node in nodes] == [None, None]


def test_a_block_device_is_busy_under_all_of_its_nodes(lockd: Scene) -> None:
    with nodes_of_a_device(lockd) as (first, second):
        assert lockd.client.acquire(first) is None
        assert "is locked by domain" in (lockd.client.acquire(second) or "")
        assert lockd.client.release(first) is None
        assert lockd.client.acquire(second) is None
