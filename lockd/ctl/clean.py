"""``lockctl clean``: remove the lease files that nobody holds.

A host that crashes leaves its lease files behind. They are only untidy: a guest can lock an existing file as
well as a new one.

Daemons on this host and on other hosts may lock and remove the same files at the same time. All follow one
rule. A process removes a file only while it holds the lock on it, and after locking a file it checks that the
path still names that file.
"""

import argparse
import errno
import os
import stat
import sys
import time
from contextlib import suppress
from enum import Enum
from typing import Final

from lockd.client.plugin_config import read_plugin_config
from lockd.ctl import terminal
from lockd.ctl.command import Commands, add_command
from lockd.ctl.disks import LEASE_NAME, LVM_UUID
from lockd.ctl.exits import Exit, Failure
from lockd.ctl.file_locks import lock_exclusive, lock_holder
from lockd.linux.file_servers import is_removed, look_up_anew
from lockd.linux.file_systems import Reach, local_lock_option, reach_of
from lockd.linux.mount_table import MountTable
from lockd.linux.printable import printable
from lockd.linux.record_locks import unlock

_PROGRESS_SECONDS: Final = 0.2
"""Time between two updates of the progress line."""

_EXAMPLE: Final = """\
example:
  lockctl clean --dry-run /var/lib/libvirt/lockd/files
"""


class Outcome(Enum):
    """The result for one file. The values are the words of the summary."""

    REMOVED = "removed"
    HELD = "held"
    OTHER = "not lease files"
    """The name is not that of a lease file, or the file is not an empty regular file."""
    GONE = "gone meanwhile"
    """Another process removed the file."""
    FAILED = "failed"


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: the commands of the parser.
    """
    parser = add_command(
        commands,
        "clean",
        run,
        summary="remove the lease files that nobody holds",
        description="Remove the lease files of a lockspace that nobody holds. Only empty files are removed, "
        "and only if the name is a hash or the UUID of an LVM volume. In scsi_lockspace_dir, empty files of "
        "any name are removed.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    parser.add_argument("directory", metavar="DIR", help="directory of a lockspace")


def run(options: argparse.Namespace) -> Exit:
    """Remove the lease files in a directory that nobody holds, and print how many.

    :param options: the parsed command line.
    :returns: the exit status: FAILED if a file could not be checked or removed, otherwise DONE.
    :raises Failure: the directory cannot be read, or the locks of other hosts cannot be seen there.
    :raises ClientError: qemu-lockd.conf cannot be read.
    """
    directory = os.path.abspath(options.directory)
    try:
        names = sorted(entry.name for entry in os.scandir(directory))
    except OSError as error:
        raise Failure(f"{directory}: {error.strerror}", _status_of(error)) from None
    mount = MountTable.read().mount_of(os.path.realpath(directory))
    if reach_of(mount) is Reach.BROKEN:
        raise Failure(
            f"{directory}: {mount.point} is mounted with {local_lock_option(mount)}: "
            "the locks of other hosts cannot be seen"
        )
    any_name = read_plugin_config().scsi_lockspace_dir == directory
    counts = dict.fromkeys(Outcome, 0)
    progress = _Progress(len(names))
    for number, name in enumerate(names):
        progress.show(number)
        path = f"{directory}/{name}"
        if any_name or LEASE_NAME.fullmatch(name) or LVM_UUID.fullmatch(name):
            outcome = _clean(path, dry_run=options.dry_run)
        else:
            outcome = Outcome.OTHER
        counts[outcome] += 1
        if options.dry_run and outcome is Outcome.REMOVED:
            progress.clear()
            print(printable(path))
    progress.clear()
    print(_summary(counts, dry_run=options.dry_run))
    return Exit.FAILED if counts[Outcome.FAILED] else Exit.DONE


def _clean(path: str, *, dry_run: bool) -> Outcome:
    try:
        if dry_run:
            return _check(path)
        return remove(path)
    except FileNotFoundError:
        return Outcome.GONE
    except OSError as error:
        terminal.print_error(f"{path}: {error.strerror}")
        return Outcome.FAILED


def _check(path: str) -> Outcome:
    """Return what ``remove`` would do with a file, and leave it alone."""
    if not _is_lease(os.lstat(path)):
        return Outcome.OTHER
    return Outcome.REMOVED if lock_holder(path) is None else Outcome.HELD


def remove(path: str) -> Outcome:
    """Remove one lease file, if nobody holds it.

    :param path: the file.
    :returns: REMOVED, HELD, OTHER or GONE.
    :raises OSError: the file cannot be opened, locked or removed; FileNotFoundError if it is gone.
    """
    if not _is_lease(os.lstat(path)):
        return Outcome.OTHER
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not lock_exclusive(descriptor):
            return Outcome.HELD
        if is_removed(descriptor):
            return Outcome.GONE
        locked = os.fstat(descriptor)
        look_up_anew(path)
        if not os.path.samestat(os.lstat(path), locked):
            # The path names another file by now. The lock taken above is not on that file, so it must stay.
            return Outcome.GONE
        if not _is_lease(locked):
            return Outcome.OTHER
        os.unlink(path)
        return Outcome.REMOVED
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return Outcome.GONE  # the server does not know the file that is open here any more
    finally:
        # The lock ends last, so that nobody else can lock the file before it is unlinked. A file server that does not
        # know FLUSH is not told of close(2), and would keep the lock for ever.
        with suppress(OSError):
            unlock(descriptor)
        os.close(descriptor)


def _is_lease(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def _summary(counts: dict[Outcome, int], *, dry_run: bool) -> str:
    first = "to be removed" if dry_run else "removed"
    others = [
        f"{count} {outcome.value}"
        for outcome, count in counts.items()
        if count and outcome is not Outcome.REMOVED
    ]
    return ", ".join([f"{counts[Outcome.REMOVED]} {first}", *others])


def _status_of(error: OSError) -> Exit:
    return Exit.NO_PERMISSION if isinstance(error, PermissionError) else Exit.FAILED


class _Progress:
    """A progress line on standard error. It is only shown on a terminal, and not before _PROGRESS_SECONDS.

    :param total: the number of files.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._enabled = sys.stderr.isatty()
        self._next = time.monotonic() + _PROGRESS_SECONDS
        self._shown = False

    def show(self, done: int) -> None:
        """Update the line, unless it was updated a moment ago."""
        if self._enabled and time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_SECONDS
            self._shown = True
            print(f"\r{done} of {self._total} files\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            self._shown = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
