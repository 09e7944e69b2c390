"""Record locks: the system calls, against what the kernel lists."""

import os
from pathlib import Path

import pytest

from lockd.linux import record_locks
from tests.kernel_locks import KernelLock, locks_on
from tests.outsider import Outsider


def test_locks_are_on_byte_0_alone(disk: Path) -> None:
    fd = os.open(disk, os.O_RDWR)
    record_locks.lock_shared(fd)
    assert locks_on(disk) == [KernelLock("READ", os.getpid())]
    record_locks.lock_exclusive(fd)
    assert locks_on(disk) == [KernelLock("WRITE", os.getpid())]
    os.close(fd)
    assert locks_on(disk) == []


def test_a_lock_is_given_up_while_the_file_stays_open(disk: Path) -> None:
    fd = os.open(disk, os.O_RDWR)
    record_locks.lock_exclusive(fd)
    for _ in range(2):
        record_locks.unlock(fd)
        assert locks_on(disk) == []
    os.close(fd)


def test_a_read_lock_does_not_become_a_write_lock_while_others_share_it(
    disk: Path, outsider: Outsider
) -> None:
    fd = os.open(disk, os.O_RDWR)
    record_locks.lock_shared(fd)
    assert outsider.lock(disk, "READ")
    with pytest.raises(BlockingIOError):
        record_locks.lock_exclusive(fd)
    assert KernelLock("READ", os.getpid()) in locks_on(disk)
    os.close(fd)


def test_the_holder_of_a_conflicting_lock_is_known(disk: Path, outsider: Outsider) -> None:
    fd = os.open(disk, os.O_RDWR)
    assert record_locks.lock_holder(fd) is None
    record_locks.lock_exclusive(fd)
    assert record_locks.lock_holder(fd) is None
    os.close(fd)

    assert outsider.lock(disk, "READ")
    fd = os.open(disk, os.O_RDWR)
    assert record_locks.lock_holder(fd) == outsider.pid
    with pytest.raises(BlockingIOError):
        record_locks.lock_exclusive(fd)
    os.close(fd)
