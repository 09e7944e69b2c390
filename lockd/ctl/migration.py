"""What may keep a running lock daemon from being replaced by another one, under running guests."""

import os
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from lockd.client.errors import UnknownProgram
from lockd.client.status import StatusConnection, lock_socket, pid_file, state_file
from lockd.ctl.exits import Exit, Failure
from lockd.ctl.findings import FAIL, PASS, WARN, Finding, descriptor_limit
from lockd.ctl.processes import command_name, describe, guest_name, open_files

_VIRTLOCKD_STATE_MAX: Final = 10 * 1024 * 1024
"""Bytes of the largest state that virtlockd reads."""

_BYTES_PER_CLIENT: Final = 900
_BYTES_PER_LOCK: Final = 300
"""About what one takes in the state, beside twice the path of its file."""

_PROGRAM_SECONDS: Final = 30

_SPARE_DESCRIPTORS: Final = 100
"""What a daemon needs beside those of clients and locks."""

_SYS_PIDFD_GETFD: Final = 438  # <asm-generic/unistd.h>, Linux 5.6; Python has no name for it

_CREDENTIALS: Final = struct.Struct("3i")

_KINDS: Final = {b"(lockd)": "lockd", b"(libvirt)": "virtlockd"}
"""The daemons, and how each calls itself in what it says to --version."""


class Running(NamedTuple):
    """The running daemon.

    :ivar command: what it was started as, its own name first.
    :ivar clients: the processes that are connected to it.
    """

    pid: int
    kind: str
    command: list[str]
    clients: list[int]
    locked_files: list[str]


def findings(to: str | None) -> Iterator[Finding]:
    """Check everything.

    :param to: the program that is to take over; by default what stands where the daemon's own was started from.
    """
    running = _running()
    yield Finding("running daemon", PASS, f"{running.kind} (pid {running.pid})")
    program = to or _program(running)
    if program is None:
        yield Finding(
            "program", FAIL, f"{running.command[0]}: is not found from everywhere, so it cannot be executed"
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

    :raises ClientError: there is none.
    :raises Failure: this user may not look at it.
    """
    kind, pid = "virtlockd", 0
    with suppress(UnknownProgram), StatusConnection.connect() as connection:
        kind, pid = "lockd", connection.daemon()["pid"]
    try:
        pid = pid or int(pid_file().read_text(encoding="ascii"))
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        os.listdir(f"/proc/{pid}/fd")
    except ValueError:
        raise Failure(f"{pid_file()}: does not tell which process the daemon is") from None
    except OSError as error:
        status = Exit.NO_PERMISSION if isinstance(error, PermissionError) else Exit.FAILED
        raise Failure(f"{error.filename}: {error.strerror}", status) from None
    command = [os.fsdecode(argument) for argument in arguments]
    if kind == "lockd":
        # The interpreter comes first.
        command = command[1:]
    return Running(pid, kind, command, list(_connected(pid)), list(_locked_files(pid)))


def _locked_files(pid: int) -> Iterator[str]:
    """Yield the paths of the files that the daemon has open for their locks."""
    for descriptor, path in open_files(pid):
        with suppress(OSError), open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
            if any(line.startswith("lock:") for line in file):
                yield path


# The program


def _program(running: Running) -> str | None:
    """Return what SIGUSR1 makes the daemon execute, as it sees it; None where that depends on a directory."""
    name = running.command[0]
    if "/" not in name:
        return shutil.which(name)
    return name if name.startswith("/") else None


def _what_it_is(program: str, running: Running) -> tuple[Finding, str | None]:
    """Look at the program; return which daemon it is, too, if it is one."""
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
    for words, kind in _KINDS.items():
        if words in done.stdout:
            version = done.stdout.rpartition(b")")[2].decode(errors="replace").strip()
            if kind == running.kind:
                way = f"goes on with {kind} {version}; to leave {kind}, put the other daemon there first"
                return Finding(subject, WARN, way), kind
            return Finding(subject, PASS, f"{running.kind} would be replaced by {kind} {version}"), kind
    return Finding(subject, FAIL, "is no lock daemon, going by what it says to --version"), None


# Clients


def _connected(pid: int) -> Iterator[int]:
    """Yield the peer process of each connection to the daemon's lock socket.

    :raises Failure: its sockets cannot be looked at.
    """
    import ctypes

    get_descriptor = ctypes.CDLL(None, use_errno=True).syscall
    address = str(lock_socket())
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                    continue
                # A copy of the socket: closing it is nothing to the daemon.
                copy = get_descriptor(_SYS_PIDFD_GETFD, pidfd, int(name), 0)
                if copy < 0:
                    raise Failure(
                        f"the daemon's sockets: {os.strerror(ctypes.get_errno())}", Exit.NO_PERMISSION
                    )
                with socket.socket(fileno=copy) as connection:
                    if connection.getsockname() == address and not connection.getsockopt(
                        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
                    ):
                        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                        yield _CREDENTIALS.unpack(data)[0]
    finally:
        os.close(pidfd)


def _clients(running: Running) -> Iterator[Finding]:
    subject = "clients"
    if running.kind == "lockd":
        yield Finding(subject, PASS, f"{len(running.clients)} are connected; each is taken over as it is")
        return
    guests = [pid for pid in running.clients if guest_name(pid) is not None]
    yield Finding(subject, PASS, f"{len(guests)} guests are connected")
    for pid in sorted(set(running.clients) - set(guests)):
        yield Finding(
            subject,
            FAIL,
            f"{describe(pid) if command_name(pid) else f'process {pid}, which has ended,'} is connected, and is no"
            " guest: if it has not registered, virtlockd ends with all locks instead of handing over; try again when"
            " it has left, or end it",
        )


# The state


def _size(running: Running, successor: str) -> Finding:
    subject = "size of the state"
    size = len(running.clients) * _BYTES_PER_CLIENT + sum(
        _BYTES_PER_LOCK + 2 * len(os.fsencode(path)) for path in running.locked_files
    )
    about = (
        f"about {size / 1e6:.1f} MB for {len(running.clients)} clients and {len(running.locked_files)} locks"
    )
    if size < _VIRTLOCKD_STATE_MAX:
        return Finding(subject, PASS, about)
    if successor == "virtlockd":
        return Finding(
            subject, FAIL, f"{about}: virtlockd can take over 10 MiB at most; lockd keeps its locks"
        )
    return Finding(
        subject, WARN, f"{about}: lockd can take that over, but virtlockd, going back, 10 MiB at most"
    )


def _descriptors(running: Running, successor: str) -> Finding:
    subject = "descriptors"
    limit = descriptor_limit(running.pid, hard=True)
    used = len(os.listdir(f"/proc/{running.pid}/fd"))
    # lockd has one for each owner's process, too.
    needed = used + _SPARE_DESCRIPTORS + (len(running.clients) if successor == "lockd" else 0)
    if limit is None or limit >= needed:
        return Finding(subject, PASS, f"{used} of {limit}")
    return Finding(
        subject,
        FAIL,
        f"{needed} are needed, and the daemon may have {limit}: prlimit --pid {running.pid} --nofile={4 * needed}",
    )


def _state_file(running: Running) -> Finding:
    path = state_file()
    subject = f"state file {path}"
    # The daemon may see another file system there than this process does.
    directory = Path(f"/proc/{running.pid}/root{path.parent}")
    try:
        room = os.statvfs(directory)
        if room.f_flag & os.ST_RDONLY:
            return Finding(subject, FAIL, "its file system is mounted read-only")
        needed = len(running.locked_files) * 1000 + len(running.clients) * 1000 + 4096
        if room.f_bavail * room.f_frsize < needed:
            return Finding(subject, FAIL, "there is no room for it: No space left on device")
        if stat.S_ISDIR(os.lstat(directory / path.name).st_mode):
            return Finding(subject, FAIL, "a directory is in its place: remove it")
    except FileNotFoundError:
        return Finding(subject, PASS, "can be written")
    except OSError as error:
        return Finding(subject, FAIL, error.strerror or str(error))
    return Finding(subject, PASS, "an old one lies there, and is replaced")
