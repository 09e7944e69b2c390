"""Processes of this host, and the disks that they use, as /proc tells."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from lockd.linux.descriptors import open_descriptors, open_files
from lockd.linux.processes import all_pids, command_name

_FILE_NAME: Final = re.compile(rb'"filename":"(?P<json>(?:[^"\\]|\\.)*)"|\bfile=(?P<option>(?:[^,]|,,)*)')
"""How a disk's path stands in QEMU's arguments: in the JSON of -blockdev, or, before QEMU 4, as -drive file=."""

_GUEST_NAME: Final = re.compile(rb"(?:^|,)guest=(?P<name>(?:[^,]|,,)*)")


def guest_name(pid: int) -> str | None:
    """Return the name of the guest that a QEMU process runs; None where it is none, or has no name."""
    arguments = _arguments(pid)
    with suppress(ValueError, IndexError):
        found = _GUEST_NAME.search(arguments[arguments.index(b"-name") + 1])
        if found:
            return os.fsdecode(found["name"].replace(b",,", b","))
    return None


def describe(pid: int) -> str:
    """Return the words for a process: its guest, if it is a QEMU, and its name."""
    command = command_name(pid)
    if command is None:
        return f"process {pid}"
    guest = guest_name(pid)
    return f'domain "{guest}" ({command}, pid {pid})' if guest else f"process {command} (pid {pid})"


def disks_of(pid: int) -> Iterator[str]:
    """Yield the paths that a process may know its disks by: those in its arguments first, then its open files."""
    for argument in _arguments(pid):
        for found in _FILE_NAME.finditer(argument):
            if found["json"] is not None:
                yield _from_json(found["json"])
            else:
                yield os.fsdecode(found["option"].replace(b",,", b","))
    for _, target in open_files(pid):
        yield target


def processes_with(status: os.stat_result) -> list[int]:
    """Return the pids of the processes, other than this one, that have a file open."""
    return [pid for pid in all_pids() if pid != os.getpid() and _has_open(pid, status)]


def _has_open(pid: int, status: os.stat_result) -> bool:
    for fd in open_descriptors(pid):
        with suppress(OSError):
            if os.path.samestat(os.stat(f"/proc/{pid}/fd/{fd}"), status):
                return True
    return False


def _from_json(text: bytes) -> str:
    # Imported late: most commands never meet a QEMU.
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
