"""What is held, by whom: asked of a running lockd, and held against the kernel's own list.

virtlockd cannot be asked. Of its locks, /proc tells the files, and nothing of their owners.
"""

import os
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from lockd.client.errors import Unavailable, UnknownProgram
from lockd.client.status import StatusConnection
from lockd.ctl.exits import Exit, Failure
from lockd.libvirt.addresses import own_addresses
from lockd.linux.descriptors import open_files
from lockd.linux.proc_locks import RecordLock, descriptor_locks, posix_locks

AGREES: Final = "yes"
DISAGREES: Final = "no"
UNLISTED: Final = "unlisted"
"""What the kernel says of a lock: that it is as the daemon tells, that it is not, that the daemon does not tell
of it at all."""

_ROUNDS: Final = 10
"""How often a lock has to be held and not told of, before it is called that: it may have been released between the
two questions, and acquired again."""


class Holding(NamedTuple):
    """One owner's holding of a lock.

    :ivar name: the resource's name in its lockspace.
    :ivar path: the locked file.
    :ivar disk: the disk that the lock protects, where that is known.
    :ivar state: ``held``, ``acquiring`` or ``releasing``.
    :ivar since: when the lock was asked for, in seconds since the epoch; None where that is not known.
    :ivar inode: inode of the locked file; of a block device -1, and ``device`` its own number.
    :ivar connection: the daemon's number for the owner's own connection.
    :ivar fencing: since when the owner is being killed, in seconds since the epoch.
    :ivar slow: where the file's file system is mounted, if it is one that may block.
    :ivar kernel: AGREES, DISAGREES or UNLISTED; None where the lock is on its way.
    :ivar doubt: what spoke against the lock when the daemon took it over from the program before it.
    """

    lockspace: str
    name: str
    path: str
    disk: str | None
    exclusive: bool
    state: str
    owner: str | None
    uuid: str | None
    pid: int | None
    since: float | None
    device: int | None
    inode: int | None
    connection: int | None
    fencing: float | None
    slow: str | None
    kernel: str | None
    doubt: str | None = None


class Overview(NamedTuple):
    """All holdings of a daemon.

    :ivar note: what the user has to know of the list; None for nothing.
    """

    holdings: list[Holding]
    note: str | None


def overview() -> Overview:
    """Return all holdings of this user's daemon.

    :raises ClientError: there is none, or it does not answer.
    :raises Failure: it is virtlockd, and /proc does not tell of it.
    """
    try:
        with StatusConnection.connect() as connection:
            return Overview(_told_by_lockd(connection), None)
    except UnknownProgram:
        return _told_by_proc()
    except Unavailable:
        # virtlockd may run without an admin socket.
        if _pid_in_file() is None:
            raise
        return _told_by_proc()


def holdings_of(lock: dict[str, Any], kernel: str | None) -> list[Holding]:
    """Return the holdings of a lock, one for each owner."""
    return [
        Holding(
            lockspace=lock["lockspace"],
            name=lock["resource"],
            path=lock["path"],
            disk=None if lock["lockspace"] else lock["path"],
            exclusive=lock["mode"] == "exclusive",
            state=lock["state"],
            owner=owner["name"] or None,
            uuid=owner["uuid"],
            pid=owner["pid"],
            since=lock["since"],
            device=lock["device"],
            inode=lock["inode"],
            connection=owner["connection"],
            fencing=owner["fencing_since"],
            slow=lock["slow_mount"],
            kernel=kernel,
            doubt=lock["doubt"],
        )
        for owner in lock["owners"]
    ]


# lockd


def _told_by_lockd(connection: StatusConnection) -> list[Holding]:
    daemon = connection.daemon()
    locks = list(connection.locks())
    kernel = _Kernel(daemon["pid"], daemon["pid_file"])
    holdings = []
    for lock in locks:
        verdict = kernel.verdict(lock)
        if verdict == DISAGREES:
            verdict = _second_verdict(connection, kernel, lock)
            if verdict is None:
                continue
        holdings += holdings_of(lock, verdict)
    return holdings + kernel.unlisted(connection)


def _second_verdict(connection: StatusConnection, kernel: "_Kernel", lock: dict[str, Any]) -> str | None:
    """Return what the kernel says of a lock while it is held; None where it was released meanwhile."""

    def present() -> dict[str, Any] | None:
        found = connection.find(lock["lockspace"], lock["resource"])
        # The number is that of the acquire: one lock, held all the time.
        return found if found is not None and found["number"] == lock["number"] else None

    before = present()
    if before is None:
        return None
    verdict = kernel.verdict(before)
    return verdict if verdict != DISAGREES or present() is not None else None


class _Kernel:
    """The kernel's list of one lockd's locks.

    :param pid_file: the descriptor of its pid file, which is locked and no resource; None where it has lost that.
    """

    def __init__(self, pid: int, pid_file: int | None) -> None:
        self._pid = pid
        self._locks = {lock for lock in posix_locks(pid) if lock.is_on_first_byte}
        self._told = set() if pid_file is None else set(_locks_of(pid, pid_file))

    def verdict(self, lock: dict[str, Any]) -> str | None:
        """Return what the kernel says of a lock that the daemon tells of."""
        if lock["state"] != "held" or lock["fd"] is None:
            return None
        exclusive = lock["mode"] == "exclusive"
        expected = RecordLock(self._pid, exclusive, lock["device"], lock["inode"], "0", "0")
        if expected in self._locks:
            self._told.add(expected)
            return AGREES
        # Device and inode may be others than stat(2) tells; the descriptor is the same.
        by_descriptor = _locks_of(self._pid, lock["fd"])
        self._told.update(by_descriptor)
        agrees = any(found.is_on_first_byte and found.exclusive == exclusive for found in by_descriptor)
        return AGREES if agrees else DISAGREES

    def unlisted(self, connection: StatusConnection) -> list[Holding]:
        """Return the locks that the daemon holds and does not tell of."""
        unlisted = dict.fromkeys(self._locks - self._told, "")
        for _ in range(_ROUNDS):
            if not unlisted:
                break
            held = [file for file in _locked_files(self._pid) if file[0] in unlisted]
            told = list(connection.locks())
            descriptors = {lock["fd"] for lock in told}
            on_their_way = {lock["path"] for lock in told if lock["state"] != "held"}
            listed = {lock for lock, fd, path in held if fd in descriptors or path in on_their_way}
            unlisted = {lock: path for lock, _, path in held if lock not in listed}
        return [_of_kernel_lock(lock, path, UNLISTED) for lock, path in unlisted.items()]


# virtlockd


def _told_by_proc() -> Overview:
    pid = _pid_in_file()
    if pid is None:
        raise Failure("the daemon is not lockd and cannot be asked; its pid file does not tell of it either")
    files = list(_locked_files(pid))
    if not files:
        raise Failure(
            f"the daemon (pid {pid}) is not lockd and cannot be asked, and /proc/{pid}/fd cannot be read",
            Exit.NO_PERMISSION,
        )
    own = str(own_addresses().pid_file)
    holdings = [
        _of_kernel_lock(lock, path, AGREES)
        for lock, _, path in files
        if lock.is_on_first_byte and path != own
    ]
    note = f"the daemon (pid {pid}) is not lockd and cannot be asked for owners: this is what /proc tells"
    return Overview(holdings, note)


def _pid_in_file() -> int | None:
    """Return the running daemon's pid, as its pid file tells."""
    try:
        pid = int(own_addresses().pid_file.read_text(encoding="ascii"))
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except (OSError, ValueError):
        return None
    return pid


def _locked_files(pid: int) -> Iterator[tuple[RecordLock, int, str]]:
    """Yield the locks of a process, with the descriptor and the path of each file."""
    for descriptor, path in open_files(pid):
        for lock in _locks_of(pid, descriptor):
            yield lock, descriptor, path


def _locks_of(pid: int, descriptor: int) -> list[RecordLock]:
    """Return the locks on a process's open file; none where the process has closed it, or may not be looked at."""
    try:
        return descriptor_locks(pid, descriptor)
    except OSError:
        return []


def _of_kernel_lock(lock: RecordLock, path: str, kernel: str) -> Holding:
    return Holding(
        lockspace="",
        name=path,
        path=path,
        disk=None,
        exclusive=lock.exclusive,
        state="held",
        owner=None,
        uuid=None,
        pid=None,
        since=None,
        device=lock.device,
        inode=lock.inode,
        connection=None,
        fencing=None,
        slow=None,
        kernel=kernel,
    )
