"""Processes of this host and the disks that they use, from /proc."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from lockd.linux.descriptors import open_descriptors, open_files
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
    :yields: the paths of disks in its arguments, in QEMU's syntax, and then the paths of all its open files.
    """
    for argument in _arguments(pid):
        for found in _FILE_NAME.finditer(argument):
            if found["json"] is not None:
                yield _from_json(found["json"])
            else:
                yield os.fsdecode(found["option"].replace(b",,", b","))
    for _, target in open_files(pid):
        yield target


def processes_with(status: os.stat_result) -> list[int]:
    """Find the processes that have a file open, other than this process.

    :param status: the result of stat(2) for the file.
    :returns: their pids. Processes that this user may not inspect are left out.
    """
    return [pid for pid in all_pids() if pid != os.getpid() and _has_open(pid, status)]


def _has_open(pid: int, status: os.stat_result) -> bool:
    for fd in open_descriptors(pid):
        with suppress(OSError):
            if os.path.samestat(os.stat(f"/proc/{pid}/fd/{fd}"), status):
                return True
    return False


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
