"""The system calls themselves, against what the kernel says."""

import os
from pathlib import Path

import pytest

from lockd.locks import posix
from tests.kernel_locks import KernelLock, locks_on
from tests.locks.outsider import Outsider


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.touch()
    return path


def test_locks_are_on_byte_0_alone(disk: Path) -> None:
    fd = os.open(disk, os.O_RDWR)
    posix.lock_shared(fd)
    assert locks_on(disk) == [KernelLock("READ", os.getpid())]
    posix.lock_exclusive(fd)
    assert locks_on(disk) == [KernelLock("WRITE", os.getpid())]
    os.close(fd)
    assert locks_on(disk) == []


def test_a_shared_lock_is_not_raised_while_others_share_it(disk: Path, outsider: Outsider) -> None:
    fd = os.open(disk, os.O_RDWR)
    posix.lock_shared(fd)
    assert outsider.lock(disk, "READ")
    with pytest.raises(BlockingIOError):
        posix.lock_exclusive(fd)
    assert KernelLock("READ", os.getpid()) in locks_on(disk)
    os.close(fd)


def test_the_holder_of_a_conflicting_lock_is_known(disk: Path, outsider: Outsider) -> None:
    fd = os.open(disk, os.O_RDWR)
    assert posix.lock_holder(fd) is None
    posix.lock_exclusive(fd)
    assert posix.lock_holder(fd) is None
    os.close(fd)

    assert outsider.lock(disk, "READ")
    fd = os.open(disk, os.O_RDWR)
    assert posix.lock_holder(fd) == outsider.pid
    with pytest.raises(BlockingIOError):
        posix.lock_exclusive(fd)
    os.close(fd)


def test_held_locks_are_those_of_this_process(disk: Path, tmp_path: Path, outsider: Outsider) -> None:
    other = tmp_path / "other"
    other.touch()
    assert outsider.lock(other, "WRITE")
    fd = os.open(disk, os.O_RDWR)
    status = os.fstat(fd)
    assert posix.held_lock(fd) is None
    assert posix.held_locks() == {}
    posix.lock_shared(fd)
    assert posix.held_lock(fd) == posix.SHARED
    # Others' locks may hide one where there are many: then held_lock tells.
    assert posix.held_locks().items() <= {(status.st_dev, status.st_ino): posix.SHARED}.items()
    os.close(fd)
