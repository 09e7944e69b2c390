"""One thread acts while another is between two of its system calls, for each of them in turn.

In a real race, threads meet at one place out of many, and seldom at the narrow ones. Here every place is tried: the
second thread does its whole action just before each system call of the first thread.
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
from tests.outsider import Outsider
from tests.uncompiled import uncompiled

with uncompiled():
    from lockd.engines.files import file_lock
    from lockd.engines.files.claims import Claim
    from lockd.engines.files.inodes import Inodes
    from lockd.engines.files.lockspaces import create_file, delete_file
    from lockd.locks.engine import Engine
    from lockd.locks.errors import Busy, TryAgain
    from lockd.locks.resource import Resource

SYSTEM_CALLS = {"posix", "fcntl"}  # the modules with Python's functions for them


class Scene:
    """A file with two names, and two resources that may lock it."""

    def __init__(self, directory: Path) -> None:
        self.disk = directory / "disk"
        self.alias = directory / "alias"
        self.disk.touch()
        os.link(self.disk, self.alias)
        self.inodes = Inodes()
        for path in (self.disk, self.alias):
            # So that they are opened at once from now on.
            self.inodes.close(self.inodes.open(str(path), os.O_RDWR, None))
        self.held = self._resource(self.alias, autocreate=False)
        self.first = self._resource(self.disk, autocreate=True)
        self.second = self._resource(self.alias, autocreate=True)
        self.directory = directory

    def _resource(self, path: Path, *, autocreate: bool) -> Resource:
        return Resource("", str(path), str(path), Engine(), 0.0, False, autocreate)

    def take(self, resource: Resource) -> None:
        resource.hold = file_lock.take(self.inodes, resource)

    def take_pinned(self, resource: Resource) -> None:
        resource.hold = file_lock.take_pinned(self.inodes, resource)

    def drop(self, resource: Resource) -> None:
        """End the lock of a resource; no effect if it has none, or another thread is ending it."""
        hold, resource.hold = resource.hold, None
        if hold is not None:
            assert isinstance(hold, Claim)
            file_lock.drop(self.inodes, resource, hold)

    def check(self) -> None:
        """Check that the kernel has each granted lock, on the file that its path names, and no other."""
        granted = {
            resource: resource.hold
            for resource in (self.held, self.first, self.second)
            if isinstance(resource.hold, Claim)
        }
        status = [os.fstat(claim.fd) for claim in granted.values()]
        assert locks_of(os.getpid()) == {(one.st_dev, one.st_ino): "WRITE" for one in status}
        assert len({one.st_ino for one in status}) == len(granted)
        for resource, claim in granted.items():
            if resource.autocreate:
                assert os.path.samestat(os.stat(resource.path), os.fstat(claim.fd))

    def end(self) -> None:
        for resource in (self.held, self.first, self.second):
            self.drop(resource)
        assert locks_of(os.getpid()) == {}
        assert self.inodes.descriptors() == []
        open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in descriptors()]
        assert not [path for path in open_files if path.startswith(str(self.directory))]
        for path in (self.disk, self.alias):
            path.unlink(missing_ok=True)


def descriptors() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{entry}")]


def take(scene: Scene) -> None:
    with suppress(Busy, TryAgain):
        scene.take(scene.first)


def take_pinned(scene: Scene) -> None:
    with suppress(Busy, TryAgain):
        scene.take_pinned(scene.first)


def take_alias(scene: Scene) -> None:
    with suppress(Busy, TryAgain):
        scene.take(scene.second)


def take_alias_pinned(scene: Scene) -> None:
    with suppress(Busy, TryAgain):
        scene.take_pinned(scene.second)


def drop(scene: Scene) -> None:
    scene.drop(scene.held)


def delete(scene: Scene) -> None:
    with suppress(Busy, TryAgain):
        delete_file(scene.inodes, str(scene.disk), "disk")


def create(scene: Scene) -> None:
    create_file(scene.inodes, str(scene.disk))


def take_and_drop(scene: Scene) -> None:
    take_alias(scene)
    scene.drop(scene.second)


def interrupted(
    scene: Scene,
    action: Callable[[Scene], None],
    other: Callable[[Scene], None],
    at: int,
    *,
    by_process: bool = False,
) -> bool:
    """Do one action, and the other one just before a certain system call of the first.

    :param scene: what both act on.
    :param action: the first action.
    :param other: the other action, of another thread or another process.
    :param at: the number of the system call, counted from 0.
    :param by_process: whether the other action is that of a process, which no mutex holds up.
    :returns: whether there was such a system call.
    """
    calls = count()
    done = False

    def on_event(frame: FrameType, event: str, function: Any) -> None:
        nonlocal done
        if event != "c_call" or getattr(function, "__module__", None) not in SYSTEM_CALLS or done:
            return
        # A thread that needs the mutex waits for it, so it cannot act here.
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
            scene.take(scene.held)
        met = interrupted(scene, action, other, at)
        scene.check()
        # As long as a lock is held, nobody else gets a lock on the same file.
        for resource in (scene.first, scene.second):
            if resource.hold is None:
                with suppress(Busy, TryAgain):
                    scene.take_pinned(resource)
            scene.check()
        scene.end()
        if not met:
            assert at > 0 or action is drop, "some system calls were made"
            break


# What other hosts may do to a lease file while it is made and locked


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
    """Do what a daemon there does when it releases the file."""
    scene.disk.touch()
    if host.lock(scene.disk, "WRITE"):
        scene.disk.unlink()
        host.unlock_all()


@pytest.mark.parametrize("other", [remove, replace, link, lock, lock_and_release])
@pytest.mark.parametrize("action", [take, take_pinned])
def test_a_new_lease_file_is_locked_wherever_another_host_comes_between(
    action: Callable[[Scene], None], other: Callable[[Scene, Outsider], None], tmp_path: Path
) -> None:
    """It is busy if the other host has locked it."""
    for at in count():
        scene = Scene(tmp_path)
        for path in (scene.disk, scene.alias):
            path.unlink()
        with Outsider() as host:
            met = interrupted(scene, action, lambda scene: other(scene, host), at, by_process=True)
            scene.check()
            if other is not lock:
                assert scene.first.hold is not None
            elif scene.first.hold is None:
                assert locks_on(scene.disk) == [KernelLock("WRITE", host.pid)]
            scene.end()
        if not met:
            assert at > 2
            break
