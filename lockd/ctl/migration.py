"""The checks of ``lockctl migrate --check``."""

import errno
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from lockd.client.errors import UnknownProgram
from lockd.client.status import StatusConnection
from lockd.ctl.exits import Exit, Failure
from lockd.ctl.findings import FAIL, PASS, WARN, Finding
from lockd.ctl.processes import describe, guest_name
from lockd.libvirt.addresses import own_addresses
from lockd.libvirt.lock_daemons import LockDaemon, identify
from lockd.libvirt.state_document import VIRTLOCKD_SIZE_MAX
from lockd.linux.descriptors import copied_descriptor, open_descriptors, open_files, target_of
from lockd.linux.peers import credentials_of
from lockd.linux.proc_locks import descriptor_locks
from lockd.linux.processes import command_name, descriptor_limit

_BYTES_OF_DAEMON: Final = 4096
_BYTES_PER_CLIENT: Final = 900
_BYTES_PER_LOCK: Final = 300
"""The approximate sizes of the daemon itself, a client, and a lock in the state document. Each path of a lock is added
twice."""

_PROGRAM_SECONDS: Final = 30
"""How long the next program may take for --version."""

_SPARE_DESCRIPTORS: Final = 100
"""Descriptors that a daemon needs, in addition to those of clients and locks."""

_NAMES: Final = {LockDaemon.LOCKD: "lockd", LockDaemon.VIRTLOCKD: "virtlockd"}


class Running(NamedTuple):
    """The running daemon.

    :ivar pid: its pid.
    :ivar kind: ``lockd`` or ``virtlockd``.
    :ivar command: its command line, beginning with the path of its program.
    :ivar clients: the pids of the clients that are connected to it, one for each connection.
    :ivar locked_files: the paths of the files that it has locked.
    """

    pid: int
    kind: str
    command: list[str]
    clients: list[int]
    locked_files: list[str]


def findings(to: str | None) -> Iterator[Finding]:
    """Run all checks.

    :param to: the program that is to take over; None for the one at the path that the daemon was started
        from.
    :yields: the finding of each check.
    :raises Failure: this user may not inspect the daemon.
    :raises ClientError: no daemon runs, or it does not answer.
    """
    running = _running()
    yield Finding("running daemon", PASS, f"{running.kind} (pid {running.pid})")
    program = to or _program(running)
    if program is None:
        yield Finding(
            "program",
            FAIL,
            f"{running.command[0]}: is no absolute path and not in PATH, so it cannot be executed",
        )
        return
    finding, successor = _what_it_is(program, running)
    yield finding
    if successor is not None:
        yield from _clients(running)
        yield _size(running, successor)
        yield _descriptors(running, successor)
        yield _state_file(running)


def _running() -> Running:
    """Find the running daemon.

    :raises ClientError: no daemon runs.
    :raises Failure: this user may not inspect it.
    """
    kind, pid = "virtlockd", 0
    with suppress(UnknownProgram), StatusConnection.connect() as connection:
        kind, pid = "lockd", connection.daemon()["pid"]
    try:
        pid = pid or int(own_addresses().pid_file.read_text(encoding="ascii"))
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        os.listdir(f"/proc/{pid}/fd")
    except ValueError:
        raise Failure(f"{own_addresses().pid_file}: contains no pid") from None
    except OSError as error:
        status = Exit.NO_PERMISSION if isinstance(error, PermissionError) else Exit.FAILED
        raise Failure(f"{error.filename}: {error.strerror}", status) from None
    command = [os.fsdecode(argument) for argument in arguments]
    if kind == "lockd":
        # The path of the Python interpreter comes first.
        command = command[1:]
    return Running(pid, kind, command, list(_connected(pid)), list(_locked_files(pid)))


def _locked_files(pid: int) -> Iterator[str]:
    """Yield the paths of the files that the daemon has locked."""
    for descriptor, path in open_files(pid):
        with suppress(OSError):
            if descriptor_locks(pid, descriptor):
                yield path


# The program


def _program(running: Running) -> str | None:
    """Return the program that the daemon executes on SIGUSR1; None if it cannot be found."""
    name = running.command[0]
    if "/" not in name:
        return shutil.which(name)
    return name if name.startswith("/") else None


def _what_it_is(program: str, running: Running) -> tuple[Finding, str | None]:
    """Run the program with --version. Return a finding, and ``lockd`` or ``virtlockd`` if it is one."""
    subject = f"program {program}"
    try:
        done = subprocess.run(
            [program, *running.command[1:], "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROGRAM_SECONDS,
            check=False,
        )
    except OSError as error:
        return Finding(subject, FAIL, f"cannot be run: {error.strerror}"), None
    except subprocess.TimeoutExpired:
        return Finding(subject, FAIL, f"--version did not end within {_PROGRAM_SECONDS} seconds"), None
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())
        return Finding(subject, FAIL, f"does not run with the daemon's arguments: {said}"), None
    daemon = identify(done.stdout)
    if daemon is None:
        return Finding(subject, FAIL, "is no lock daemon, according to its --version"), None
    kind = _NAMES[daemon]
    version = done.stdout.rpartition(b")")[2].decode(errors="replace").strip()
    if kind == running.kind:
        way = f"goes on with {kind} {version}; to change to the other daemon, install that at this path first"
        return Finding(subject, WARN, way), kind
    return Finding(subject, PASS, f"{running.kind} would be replaced by {kind} {version}"), kind


# Clients


def _connected(pid: int) -> Iterator[int]:
    """Yield the pid of the peer of each connection to the daemon's lock socket.

    :raises Failure: the sockets of the daemon cannot be inspected.
    """
    address = str(own_addresses().socket)
    pidfd = os.pidfd_open(pid)
    try:
        for descriptor in open_descriptors(pid):
            peer = _peer(pid, pidfd, descriptor, address)
            if peer is not None:
                yield peer
    finally:
        os.close(pidfd)


def _peer(pid: int, pidfd: int, descriptor: int, address: str) -> int | None:
    """Return the pid of the peer of a connection to ``address``.

    :param pid: the daemon.
    :param pidfd: a pidfd of the daemon.
    :param descriptor: the number of a descriptor of the daemon.
    :param address: the path of the lock socket.
    :returns: the pid; None if the descriptor is no such connection, or is closed by now.
    :raises Failure: the socket cannot be inspected.
    """
    try:
        if not target_of(descriptor, pid).startswith("socket:"):
            return None
        with (
            copied_descriptor(pidfd, descriptor) as copy,
            socket.socket(fileno=os.dup(copy)) as connection,
        ):
            listens = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            is_client = connection.getsockname() == address and not listens
            return credentials_of(connection).pid if is_client else None
    except OSError as error:
        if error.errno == errno.EPERM:
            raise Failure(f"the daemon's sockets: {error.strerror}", Exit.NO_PERMISSION) from None
        return None


def _clients(running: Running) -> Iterator[Finding]:
    subject = "clients"
    if running.kind == "lockd":
        yield Finding(subject, PASS, f"{len(running.clients)} are connected; all of them are taken over")
        return
    guests = [pid for pid in running.clients if guest_name(pid) is not None]
    yield Finding(subject, PASS, f"{len(guests)} guests are connected")
    for pid in sorted(set(running.clients) - set(guests)):
        yield Finding(
            subject,
            FAIL,
            f"{describe(pid) if command_name(pid) else f'process {pid}, which has ended,'} is connected, and"
            " is no guest: if it has not registered, virtlockd exits instead of handing over, and all locks"
            " are lost; wait until it disconnects, or end it",
        )


# The state


def _state_bytes(running: Running) -> int:
    """Return about how many bytes the state document has."""
    return (
        _BYTES_OF_DAEMON
        + len(running.clients) * _BYTES_PER_CLIENT
        + sum(_BYTES_PER_LOCK + 2 * len(os.fsencode(path)) for path in running.locked_files)
    )


def _size(running: Running, successor: str) -> Finding:
    subject = "size of the state"
    size = _state_bytes(running)
    about = (
        f"about {size / 1e6:.1f} MB for {len(running.clients)} clients and {len(running.locked_files)} locks"
    )
    if size < VIRTLOCKD_SIZE_MAX:
        return Finding(subject, PASS, about)
    if successor == "virtlockd":
        return Finding(
            subject,
            FAIL,
            f"{about}: virtlockd can take over 10 MiB at most; lockd would go on with all locks",
        )
    return Finding(
        subject,
        WARN,
        f"{about}: lockd can take that over, but on the way back virtlockd takes over 10 MiB at most",
    )


def _descriptors(running: Running, successor: str) -> Finding:
    subject = "descriptors"
    limit = descriptor_limit(running.pid, hard=True)
    used = len(os.listdir(f"/proc/{running.pid}/fd"))
    # lockd also has a pidfd for the process of each owner.
    needed = used + _SPARE_DESCRIPTORS + (len(running.clients) if successor == "lockd" else 0)
    if limit is None or limit >= needed:
        return Finding(subject, PASS, f"{used} of {limit}")
    return Finding(
        subject,
        FAIL,
        f"{needed} are needed, but the limit is {limit}: "
        f"run prlimit --pid {running.pid} --nofile={4 * needed}",
    )


def _state_file(running: Running) -> Finding:
    path = own_addresses().state_file
    subject = f"state file {path}"
    # The daemon may be in another mount namespace than this process.
    directory = Path(f"/proc/{running.pid}/root{path.parent}")
    try:
        room = os.statvfs(directory)
        if room.f_flag & os.ST_RDONLY:
            return Finding(subject, FAIL, "its file system is mounted read-only")
        if room.f_bavail * room.f_frsize < _state_bytes(running):
            return Finding(subject, FAIL, "there is no room for it: No space left on device")
        if stat.S_ISDIR(os.lstat(directory / path.name).st_mode):
            return Finding(subject, FAIL, "a directory is in its place: remove it")
    except FileNotFoundError:
        return Finding(subject, PASS, "can be written")
    except OSError as error:
        return Finding(subject, FAIL, error.strerror or str(error))
    return Finding(subject, PASS, "an old file exists, and will be replaced")
