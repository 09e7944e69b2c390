"""``lockctl clean``: remove the lease files that nobody holds.

A host that crashed leaves its lease files behind. They do no harm but to the eye: a guest locks one that is
there as it would a new one.

Daemons, of this host and of others, lock and remove the same files meanwhile. All keep to one rule: whoever
removes a file holds its lock, and whoever has locked a file looks whether its name still leads to it.
"""

import argparse
import os
import stat
import sys
import time
from enum import Enum
from typing import Final

from lockd.client.plugin_config import read_plugin_config
from lockd.ctl import terminal
from lockd.ctl.command import Commands, add_command
from lockd.ctl.disks import LEASE_NAME, LVM_UUID
from lockd.ctl.exits import Exit, Failure
from lockd.ctl.file_locks import lock_exclusive, lock_holder
from lockd.linux.file_systems import Reach, local_lock_option, reach_of
from lockd.linux.mount_table import MountTable

_PROGRESS_SECONDS: Final = 0.2

_EXAMPLE: Final = """\
example:
  lockctl clean --dry-run /var/lib/libvirt/lockd/files
"""


class Outcome(Enum):
    """What became of a file."""

    REMOVED = "removed"
    HELD = "held"
    OTHER = "no lease files"
    GONE = "gone meanwhile"
    FAILED = "failed"


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: where commands are added.
    """
    parser = add_command(
        commands,
        "clean",
        run,
        summary="remove the lease files that nobody holds",
        description="Remove the files of a lockspace that nobody holds. Only empty files that are named as "
        "lease files are: by a hash, by the UUID of an LVM volume, or, in scsi_lockspace_dir, at all.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    parser.add_argument("directory", metavar="DIR", help="directory of a lockspace")


def run(options: argparse.Namespace) -> Exit:
    """Clean a directory."""
    directory = os.path.abspath(options.directory)
    try:
        names = sorted(entry.name for entry in os.scandir(directory))
    except OSError as error:
        raise Failure(f"{directory}: {error.strerror}", _status_of(error)) from None
    mount = MountTable.read().mount_of(os.path.realpath(directory))
    if reach_of(mount) is Reach.BROKEN:
        raise Failure(
            f"{directory}: {mount.point} is mounted with {local_lock_option(mount)}: what other hosts hold cannot be seen"
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
            print(terminal.printable(path))
    progress.clear()
    print(_summary(counts, dry_run=options.dry_run))
    return Exit.FAILED if counts[Outcome.FAILED] else Exit.DONE


def _clean(path: str, *, dry_run: bool) -> Outcome:
    try:
        if dry_run:
            return _look(path)
        return remove(path)
    except FileNotFoundError:
        return Outcome.GONE
    except OSError as error:
        terminal.print_error(f"{path}: {error.strerror}")
        return Outcome.FAILED


def _look(path: str) -> Outcome:
    if not _is_lease(os.lstat(path)):
        return Outcome.OTHER
    return Outcome.REMOVED if lock_holder(path) is None else Outcome.HELD


def remove(path: str) -> Outcome:
    """Remove one lease file, if nobody holds it.

    :raises OSError: it is not there any more, or the system refuses.
    """
    if not _is_lease(os.lstat(path)):
        return Outcome.OTHER
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not lock_exclusive(descriptor):
            return Outcome.HELD
        locked = os.fstat(descriptor)
        if not os.path.samestat(os.lstat(path), locked):
            # Whoever removed it holds the new one, or nobody does: that one is not locked here.
            return Outcome.GONE
        if not _is_lease(locked):
            return Outcome.OTHER
        os.unlink(path)
        return Outcome.REMOVED
    finally:
        # Last: until it is unlinked, nobody else may lock it.
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
    """A line that tells how far it is, on a terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._enabled = terminal.is_terminal(sys.stderr)
        self._next = time.monotonic() + _PROGRESS_SECONDS
        self._shown = False

    def show(self, done: int) -> None:
        """Tell, if it was not told just now."""
        if self._enabled and time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_SECONDS
            self._shown = True
            print(f"\r{done} of {self._total} files\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._shown = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
