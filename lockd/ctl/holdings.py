"""The holdings of the running daemon, compared with the locks that the kernel lists.

lockd reports its holdings through the status program. libvirt's virtlockd has no such program. Its locks are
read from /proc, which shows the locked files, but not the owners.
"""

import os
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from lockd.client.errors import Unavailable, UnknownProgram
from lockd.client.status import StatusConnection
from lockd.ctl.exits import Exit, Failure
from lockd.libvirt.addresses import own_addresses
from lockd.linux.descriptors import open_files
from lockd.linux.file_systems import lists_locks
from lockd.linux.mount_table import MountTable
from lockd.linux.proc_locks import RecordLock, descriptor_locks, posix_locks

AGREES: Final = "yes"
DISAGREES: Final = "no"
UNLISTED: Final = "unlisted"
AT_SERVER: Final = "server"
"""The result of comparing a lock with the kernel's list. AGREES: the kernel lists the lock that the daemon
reports. DISAGREES: it does not. UNLISTED: the kernel lists a lock of the daemon that the daemon does not
report. AT_SERVER: nothing is known, because a file server keeps the lock and the kernel lists none of its locks."""

_ROUNDS: Final = 10
"""How often a lock must be found in the kernel and not be reported before it counts as UNLISTED. A single
difference proves nothing: the lock may have been released and acquired again between the two queries."""


class Holding(NamedTuple):
    """One owner's share of a resource. A field that is not known is None.

    :ivar lockspace: the directory of the lockspace; empty if the disk itself is locked.
    :ivar name: the name of the resource in its lockspace.
    :ivar path: the locked file.
    :ivar disk: the disk that the lock protects.
    :ivar exclusive: whether the lock is exclusive, rather than shared.
    :ivar state: ``held``, ``acquiring`` or ``releasing``.
    :ivar owner: the name of the owner.
    :ivar uuid: the UUID of the owner.
    :ivar pid: the pid of the owner.
    :ivar since: when the lock was requested, in seconds since the epoch.
    :ivar device: the device number of the locked file's file system, or a block device's own number.
    :ivar inode: the inode number of the locked file; -1 for a block device.
    :ivar connection: the daemon's number for the owner's own connection; None if the owner has none.
    :ivar fencing: when fencing of the owner began, in seconds since the epoch; None if it is not being
        fenced.
    :ivar slow: the mount point of the locked file's file system if that may block; otherwise None.
    :ivar kernel: AGREES, DISAGREES, UNLISTED or AT_SERVER; None while the lock is being acquired or released.
    :ivar doubt: why the lock may protect nothing: it was lost, or its path names another file; None for most.
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

    @property
    def disagrees(self) -> bool:
        """Whether the daemon and the kernel do not say the same of the lock."""
        return self.kernel in {DISAGREES, UNLISTED}


class Overview(NamedTuple):
    """All holdings of a daemon.

    :ivar holdings: the holdings.
    :ivar note: a restriction of the list that the user must know; None if there is none.
    """

    holdings: list[Holding]
    note: str | None


def overview() -> Overview:
    """Return all holdings of this user's daemon.

    :returns: the holdings.
    :raises ClientError: no daemon runs, or it does not answer.
    :raises Failure: the daemon is virtlockd, and its locks cannot be read from /proc.
    """
    try:
        with StatusConnection.connect() as connection:
            return Overview(_holdings_of_lockd(connection), None)
    except UnknownProgram:
        return _overview_of_virtlockd()
    except Unavailable:
        # virtlockd may run without an admin socket.
        if _pid_in_file() is None:
            raise
        return _overview_of_virtlockd()


def doubts_of(holdings: list[Holding]) -> dict[str, str]:
    """Return why locks may protect nothing, by their paths.

    :param holdings: the holdings.
    :returns: the doubts; nothing for locks that are not in doubt.
    """
    return {holding.path: holding.doubt for holding in holdings if holding.doubt is not None}


def holdings_of(lock: dict[str, Any], kernel: str | None) -> list[Holding]:
    """Return the holdings of a lock, one for each owner.

    :param lock: the lock, as the daemon's status program describes it.
    :param kernel: the result of comparing the lock with the kernel's list; None if it was not compared.
    :returns: the holdings.
    """
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


def _holdings_of_lockd(connection: StatusConnection) -> list[Holding]:
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
    """Compare a lock with the kernel's list again; return None if it was released in the meantime."""

    def present() -> dict[str, Any] | None:
        found = connection.find(lock["lockspace"], lock["resource"])
        # Each acquire has a number of its own: the same number means that the lock was held all the time.
        return found if found is not None and found["number"] == lock["number"] else None

    before = present()
    if before is None:
        return None
    verdict = kernel.verdict(before)
    return verdict if verdict != DISAGREES or present() is not None else None


class _Kernel:
    """The kernel's list of the locks of one lockd.

    :param pid: the pid of the daemon.
    :param pid_file: the number of the daemon's descriptor of its pid file, which is locked and is no
        resource; None if the daemon has none.
    """

    def __init__(self, pid: int, pid_file: int | None) -> None:
        self._pid = pid
        self._locks = {lock for lock in posix_locks(pid) if lock.is_on_first_byte}
        self._reported = set() if pid_file is None else set(_locks_of(pid, pid_file))

    def verdict(self, lock: dict[str, Any]) -> str | None:
        """Compare a lock that the daemon reports with the kernel's list; None while the lock is changing."""
        if lock["state"] != "held" or lock["fd"] is None:
            return None
        exclusive = lock["mode"] == "exclusive"
        expected = RecordLock(self._pid, exclusive, lock["device"], lock["inode"], "0", "0")
        if expected in self._locks:
            self._reported.add(expected)
            return AGREES
        # The kernel may list other device and inode numbers than those of stat(2). fdinfo needs neither.
        by_descriptor = _locks_of(self._pid, lock["fd"])
        self._reported.update(by_descriptor)
        if any(found.is_on_first_byte and found.exclusive == exclusive for found in by_descriptor):
            return AGREES
        return DISAGREES if _is_listed(lock) else AT_SERVER

    def unlisted(self, connection: StatusConnection) -> list[Holding]:
        """Return the locks that the daemon holds and does not report."""
        unlisted = dict.fromkeys(self._locks - self._reported, "")
        for _ in range(_ROUNDS):
            if not unlisted:
                break
            held = [file for file in _locked_files(self._pid) if file[0] in unlisted]
            reported = list(connection.locks())
            descriptors = {lock["fd"] for lock in reported}
            changing = {lock["path"] for lock in reported if lock["state"] != "held"}
            listed = {lock for lock, fd, path in held if fd in descriptors or path in changing}
            unlisted = {lock: path for lock, _, path in held if lock not in listed}
        return [_of_kernel_lock(lock, path, UNLISTED) for lock, path in unlisted.items()]


def _is_listed(lock: dict[str, Any]) -> bool:
    """Return whether the kernel lists a lock that the daemon reports, as long as it is held."""
    if "listed" in lock:
        return bool(lock["listed"])
    # Only the daemon's engine really knows it, but an older daemon does not say so.
    mount: str | None = lock["slow_mount"]
    return mount is None or lists_locks(MountTable.read().mount_of(mount).kind)


# virtlockd


def _overview_of_virtlockd() -> Overview:
    """Read the locks of virtlockd from /proc."""
    pid = _pid_in_file()
    if pid is None:
        raise Failure(
            "the daemon is not lockd and cannot be asked, and its pid file names no running process"
        )
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
    note = f"the daemon (pid {pid}) is not lockd and cannot be asked for owners: this list is from /proc"
    return Overview(holdings, note)


def daemon_pid() -> int | None:
    """Return the pid of this user's lock daemon, lockd or virtlockd; None if it cannot be found."""
    try:
        with StatusConnection.connect() as connection:
            pid: int = connection.daemon()["pid"]
            return pid
    except (UnknownProgram, Unavailable):
        return _pid_in_file()


def _pid_in_file() -> int | None:
    """Return the pid in the daemon's pid file, or None if no such process runs."""
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
    """Return a process's locks on an open file; none if the file is closed by now, or access is denied."""
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
