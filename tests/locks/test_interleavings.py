"""What one thread does, in the middle of what another does: between any two of its system calls.

Threads of a real race meet in one place out of many, and seldom in the narrow ones. Here the second thread's
whole action is done before each system call of the first one's in turn, so every place is met.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.kernel_locks import KernelLock, locks_of, locks_on
from tests.locks.outsider import Outsider
from tests.uncompiled import uncompiled

with uncompiled():
    from lockd.locks.errors import Busy
    from lockd.locks.inodes import Inodes
    from lockd.locks.resource import Resource
    from lockd.locks.table import create_file, delete_file

SYSTEM_CALLS = {"posix", "fcntl"}  # the modules of Python's functions for them


class Scene:
    """A file with two names, and two resources that may lock it."""

    def __init__(self, directory: Path) -> None:
        self.disk = directory / "disk"
        self.alias = directory / "alias"
        self.disk.touch()
        os.link(self.disk, self.alias)
        self.inodes = Inodes()
        self.held = self._resource(self.alias, autocreate=False)
        self.first = self._resource(self.disk, autocreate=True)
        self.second = self._resource(self.alias, autocreate=True)
        self.directory = directory

    def _resource(self, path: Path, *, autocreate: bool) -> Resource:
        return Resource("", str(path), str(path), shared=False, autocreate=autocreate)

    def check(self) -> None:
        """Every lock that was granted is held, on the file that its path names; and no others."""
        granted = [
            resource for resource in (self.held, self.first, self.second) if resource.claim is not None
        ]
        status = [os.fstat(resource.claim.fd) for resource in granted if resource.claim is not None]
        assert locks_of(os.getpid()) == {(one.st_dev, one.st_ino): "WRITE" for one in status}
        assert len({one.st_ino for one in status}) == len(granted)
        for resource in granted:
            if resource.autocreate:
                assert resource.claim is not None
                assert os.path.samestat(os.stat(resource.path), os.fstat(resource.claim.fd))

    def end(self) -> None:
        for resource in (self.held, self.first, self.second):
            resource.drop(self.inodes)
        assert locks_of(os.getpid()) == {}
        assert self.inodes.descriptors() == []
        open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in descriptors()]
        assert not [path for path in open_files if path.startswith(str(self.directory))]
        for path in (self.disk, self.alias):
            path.unlink(missing_ok=True)


def descriptors() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{entry}")]


def take(scene: Scene) -> None:
    with suppress(Busy):
        scene.first.take(scene.inodes)


def take_pinned(scene: Scene) -> None:
    with suppress(Busy):
        scene.first.take_pinned(scene.inodes)


def take_alias(scene: Scene) -> None:
    with suppress(Busy):
        scene.second.take(scene.inodes)


def take_alias_pinned(scene: Scene) -> None:
    with suppress(Busy):
        scene.second.take_pinned(scene.inodes)


def drop(scene: Scene) -> None:
    scene.held.drop(scene.inodes)


def delete(scene: Scene) -> None:
    with suppress(Busy):
        delete_file(scene.inodes, str(scene.disk), "disk")


def create(scene: Scene) -> None:
    create_file(scene.inodes, str(scene.disk))


def take_and_drop(scene: Scene) -> None:
    take_alias(scene)
    scene.second.drop(scene.inodes)


def interrupted(
    scene: Scene,
    action: Callable[[Scene], None],
    other: Callable[[Scene], None],
    at: int,
    *,
    by_process: bool = False,
) -> bool:
    """Do one action, and the other before its system call of this number; whether there was one.

    The other is that of another thread, or of another process.
    """
    calls = count()
    done = False

    def on_event(frame: FrameType, event: str, function: Any) -> None:
        nonlocal done
        if event != "c_call" or getattr(function, "__module__", None) not in SYSTEM_CALLS or done:
            return
        # A thread that needs the mutex waits for it, and so comes later.
        if next(calls) >= at and (by_process or not scene.inodes._mutex.locked()):
            done = True
            other(scene)

    sys.setprofile(on_event)
    try:
        action(scene)
    finally:
        sys.setprofile(None)
    return done


@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
@pytest.mark.parametrize("other", [take_alias, take_alias_pinned, take_and_drop, drop, delete, create])
@pytest.mark.parametrize("action", [take, take_pinned, drop, delete, create])
def test_no_lock_is_lost_wherever_another_thread_comes_between(
    action: Callable[[Scene], None], other: Callable[[Scene], None], held: bool, tmp_path: Path
) -> None:
    """The file may be held already under its other name."""
    for at in count():
        scene = Scene(tmp_path)
        if held:
            scene.held.take(scene.inodes)
        met = interrupted(scene, action, other, at)
        scene.check()
        # A lock that stays is one that nobody can have beside it.
        for resource in (scene.first, scene.second):
            if resource.claim is None:
                with suppress(Busy):
                    resource.take_pinned(scene.inodes)
            scene.check()
        scene.end()
        if not met:
            assert at > 0 or action is drop, "some system calls were made"
            break


# A lease file that is made for the lock, and what other hosts may do to it meanwhile.


def remove(scene: Scene, host: Outsider) -> None:
    scene.disk.unlink(missing_ok=True)


def replace(scene: Scene, host: Outsider) -> None:
    scene.disk.unlink(missing_ok=True)
    scene.disk.touch()


def link(scene: Scene, host: Outsider) -> None:
    if scene.disk.exists():
        os.link(scene.disk, scene.alias)


def lock(scene: Scene, host: Outsider) -> None:
    scene.disk.touch()
    host.lock(scene.disk, "WRITE")


def lock_and_release(scene: Scene, host: Outsider) -> None:
    """As a daemon there does that had it before."""
    scene.disk.touch()
    if host.lock(scene.disk, "WRITE"):
        scene.disk.unlink()
        host.unlock_all()


@pytest.mark.parametrize("other", [remove, replace, link, lock, lock_and_release])
@pytest.mark.parametrize("action", [take, take_pinned])
def test_a_new_lease_file_is_locked_wherever_another_host_comes_between(
    action: Callable[[Scene], None], other: Callable[[Scene, Outsider], None], tmp_path: Path
) -> None:
    """Or it is busy, where the other host has it."""
    for at in count():
        scene = Scene(tmp_path)
        for path in (scene.disk, scene.alias):
            path.unlink()
        with Outsider() as host:
            met = interrupted(scene, action, lambda scene: other(scene, host), at, by_process=True)
            scene.check()
            if other is not lock:
                assert scene.first.claim is not None
            elif scene.first.claim is None:
                assert locks_on(scene.disk) == [KernelLock("WRITE", host.pid)]
            scene.end()
        if not met:
            assert at > 2
            break
