"""Processes of this host and the disks that they use, from /proc."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from lockd.linux.descriptors import OpenedAs, open_files, opened_as
from lockd.linux.file_identity import identity_of
from lockd.linux.processes import all_pids, command_name

_FILE_NAME: Final = re.compile(rb'"filename":"(?P<json>(?:[^"\\]|\\.)*)"|\bfile=(?P<option>(?:[^,]|,,)*)')
"""A disk's path in the arguments of QEMU: in the JSON of -blockdev, or, before QEMU 4, as -drive file=."""

_GUEST_NAME: Final = re.compile(rb"(?:^|,)guest=(?P<name>(?:[^,]|,,)*)")
"""The name of the guest in QEMU's argument -name. Here and in file=, a comma is written as two commas."""


def guest_name(pid: int) -> str | None:
    """Return the name of the guest that a QEMU process runs.

    :param pid: the process.
    :returns: the name; None if the process does not run a guest, or the guest has no name.
    """
    arguments = _arguments(pid)
    with suppress(ValueError, IndexError):
        found = _GUEST_NAME.search(arguments[arguments.index(b"-name") + 1])
        if found:
            return os.fsdecode(found["name"].replace(b",,", b","))
    return None


def describe(pid: int) -> str:
    """Return a description of a process, for messages.

    :param pid: the process.
    :returns: the name of its guest if it runs one, the name of its program, and its pid.
    """
    command = command_name(pid)
    if command is None:
        return f"process {pid}"
    guest = guest_name(pid)
    return f'domain "{guest}" ({command}, pid {pid})' if guest else f"process {command} (pid {pid})"


def disks_of(pid: int) -> Iterator[str]:
    """Find the paths of the disks that a process uses.

    :param pid: the process.
    :yields: the paths of disks in its arguments, and then the paths of all its open files.
    """
    yield from disks_in_arguments(pid)
    for _, target in open_files(pid):
        yield target


def disks_in_arguments(pid: int) -> Iterator[str]:
    """Find the paths of the disks that a process was started with.

    :param pid: the process.
    :yields: the paths of disks in its arguments, in QEMU's syntax.
    """
    for argument in _arguments(pid):
        for found in _FILE_NAME.finditer(argument):
            if found["json"] is not None:
                yield _from_json(found["json"])
            else:
                yield os.fsdecode(found["option"].replace(b",,", b","))


class Opener(NamedTuple):
    """A process that has a file open.

    :ivar pid: the process.
    :ivar writes: whether it can write to the file.
    """

    pid: int
    writes: bool


def openers_of(status: os.stat_result) -> list[Opener]:
    """Find the processes that have a file open, other than this process.

    :param status: the result of stat(2) for the file.
    :returns: the processes. Those that this user may not inspect are left out.
    """
    openers = []
    for pid in all_pids():
        ways = [] if pid == os.getpid() else list(_ways_open(pid, status))
        if ways:
            openers.append(Opener(pid, any(way.can_write for way in ways)))
    return openers


def _ways_open(pid: int, status: os.stat_result) -> Iterator[OpenedAs]:
    """Yield how a process has a file open, for each of its descriptors of the file."""
    wanted = identity_of(status)
    is_device = stat.S_ISBLK(status.st_mode)  # it may have several nodes
    for fd, _ in open_files(pid):
        with suppress(OSError, ValueError, KeyError):
            way = opened_as(fd, pid)
            # stat(2) on a file of a hung file system waits. So it is only called if the inode number is right.
            if not way.can_read_or_write or (not is_device and way.inode not in {status.st_ino, None}):
                continue
            if identity_of(os.stat(f"/proc/{pid}/fd/{fd}")) == wanted:
                yield way


def is_qemu(pid: int) -> bool:
    """Return whether a process is QEMU or one of its tools.

    :param pid: the process.
    :returns: whether it is.
    """
    return (command_name(pid) or "").startswith("qemu") or guest_name(pid) is not None


def _from_json(text: bytes) -> str:
    # Imported here because few commands need it, and importing it takes time.
    import json

    try:
        return str(json.loads(b'"' + text + b'"'))
    except ValueError:
        return os.fsdecode(text)


def _arguments(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return [b""]
