"""Open descriptors of processes (/proc/PID/fd in proc(5))."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from lockd.linux.shortages import SHORTAGES

_SYS_PIDFD_GETFD: Final = 438  # <asm-generic/unistd.h>, Linux 5.6; Python has no name for it


STANDARD_STREAMS: Final = (0, 1, 2)
"""The descriptors of standard input, output and error."""


def open_standard_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed.

    Otherwise the next file that is opened gets the number of the stream, and what is written to the stream is written
    into that file.

    :raises OSError: /dev/null cannot be opened.
    """
    for stream in STANDARD_STREAMS:
        try:
            os.fstat(stream)
        except OSError as error:
            # Any other error is that of the file to which the stream goes: its server may be gone (ESTALE).
            if error.errno == errno.EBADF:
                # open(2) returns the lowest number that is free. All lower ones are in use by now.
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def open_descriptors(pid: int | None = None) -> list[int]:
    """Return the numbers of the descriptors that a process has open.

    :param pid: the process; None for this one. Then one of the descriptors is that of the listing, closed by now.
    :returns: the numbers; none where another process cannot be looked at.
    :raises OSError: this process cannot be looked at now, as descriptors or memory have run out.
    """
    try:
        return [int(name) for name in os.listdir(_directory(pid))]
    except OSError as error:
        if pid is None and error.errno in SHORTAGES:
            raise
        return []


def target_of(fd: int, pid: int | None = None) -> str:
    """Return what a descriptor leads to.

    :param fd: the number of the descriptor.
    :param pid: the process that has it open; None for this one.
    :returns: the path of a file, or a text such as ``socket:[123]`` for anything else.
    :raises OSError: it is not open, or the process cannot be looked at.
    """
    return os.readlink(f"{_directory(pid)}/{fd}")


def open_files(pid: int) -> Iterator[tuple[int, str]]:
    """Find the files that a process has open.

    :param pid: the process.
    :yields: the number of a descriptor and the path of its file; nothing where the process cannot be looked at.
    """
    for fd in open_descriptors(pid):
        with suppress(OSError):
            target = target_of(fd, pid)
            if target.startswith("/"):
                yield fd, target


class OpenedAs(NamedTuple):
    """How a process has a file open.

    :ivar flags: the flags that it was opened with (open(2)).
    :ivar inode: the inode number of the file; None before Linux 5.14.
    """

    flags: int
    inode: int | None

    @property
    def can_read_or_write(self) -> bool:
        """Whether the content can be read or written by the descriptor. Those of O_PATH only name a file."""
        return not self.flags & os.O_PATH

    @property
    def can_write(self) -> bool:
        """Whether the content can be written by the descriptor."""
        return self.can_read_or_write and self.flags & os.O_ACCMODE != os.O_RDONLY


def opened_as(fd: int, pid: int) -> OpenedAs:
    """Return how a process has a file open (/proc/PID/fdinfo in proc(5)). No file system is asked.

    :param fd: the number of the descriptor.
    :param pid: the process.
    :returns: the flags and the inode number.
    :raises OSError: it is not open, or the process cannot be looked at.
    """
    with open(f"/proc/{pid}/fdinfo/{fd}", encoding="utf-8", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return OpenedAs(int(fields["flags"], 8), int(fields["ino"]) if "ino" in fields else None)


def _directory(pid: int | None) -> str:
    return f"/proc/{'self' if pid is None else pid}/fd"


@contextmanager
def copied_descriptor(pidfd: int, fd: int) -> Iterator[int]:
    """Give the block a copy of another process's descriptor (pidfd_getfd(2)), and close the copy at its end.

    Closing it ends no lock of the other process.

    :param pidfd: a descriptor of the other process.
    :param fd: the number of the descriptor in the other process.
    :yields: the number of the copy.
    :raises OSError: the kernel refuses, or there is no such descriptor.
    """
    # Imported late: the daemon uses the rest of this module, and ctypes takes time and memory.
    import ctypes

    copy = ctypes.CDLL(None, use_errno=True).syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
    if copy < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        yield copy
    finally:
        os.close(copy)
