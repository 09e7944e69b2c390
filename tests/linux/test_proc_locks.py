"""Reading the kernel's lists of record locks."""

import os
from pathlib import Path

import pytest

from lockd.linux import record_locks
from lockd.linux.proc_locks import RecordLock, descriptor_locks, posix_locks
from tests.outsider import Outsider


def test_the_locks_of_a_process_are_its_own_alone(disk: Path, tmp_path: Path, outsider: Outsider) -> None:
    other = tmp_path / "other"
    other.touch()
    assert outsider.lock(other, "WRITE")
    fd = os.open(disk, os.O_RDWR)
    status = os.fstat(fd)
    assert descriptor_locks(os.getpid(), fd) == []
    assert posix_locks(os.getpid()) == []
    record_locks.lock_shared(fd)
    lock = RecordLock(os.getpid(), False, status.st_dev, status.st_ino, "0", "0")
    assert descriptor_locks(os.getpid(), fd) == [lock]
    # If there are many locks, /proc/locks may leave one out while others come and go (tests/kernel_locks.py).
    assert posix_locks(os.getpid()) in ([lock], [])
    record_locks.lock_exclusive(fd)
    assert descriptor_locks(os.getpid(), fd) == [lock._replace(exclusive=True)]
    os.close(fd)
    assert posix_locks(os.getpid()) == []


def test_the_locks_of_all_processes_are_listed_with_their_holders(disk: Path, outsider: Outsider) -> None:
    assert outsider.lock(disk, "WRITE")
    status = disk.stat()
    lock = RecordLock(outsider.pid, True, status.st_dev, status.st_ino, "0", "0")
    assert posix_locks(outsider.pid) == [lock]
    assert lock in posix_locks()
    outsider.unlock_all()
    assert lock not in posix_locks()


def test_a_lock_is_listed_with_its_bytes(disk: Path, outsider: Outsider) -> None:
    assert outsider.lock(disk, "READ")
    (lock,) = posix_locks(outsider.pid)
    assert lock.is_on_first_byte
    for start, end in (("0", "EOF"), ("1", "1"), ("0", "1")):
        assert not lock._replace(start=start, end=end).is_on_first_byte


def test_a_descriptor_that_is_not_open_has_no_list(disk: Path) -> None:
    fd = os.open(disk, os.O_RDWR)
    os.close(fd)
    with pytest.raises(FileNotFoundError):
        descriptor_locks(os.getpid(), fd)
