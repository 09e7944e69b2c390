"""Says whether a daemon is well: it lives and answers, it logs no fault of its own, and its locks are the kernel's."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lockd.client.errors import ClientError
from lockd.client.status import StatusConnection
from lockd.wire import keepalive
from lockd.wire.admin import ParameterType, Procedure
from tests.admin.raw_admin import RawAdmin, arguments, optional, parameters
from tests.differential.pair import PING
from tests.fuzz.connections import Unanswered, connect
from tests.kernel_locks import locks_of
from tests.peer_process import PeerProcess
from tests.private_daemon import PrivateDaemon
from tests.robustness.observed import descriptors
from tests.trouble.stopwatch import Stopwatch
from tests.waiting import wait_until

_FAULTS = (
    b"Traceback (most recent call last)",
    b"could not be served",
    b"a task of the daemon failed",
    b"--- Logging error ---",
)
"""What is written if the daemon meets a fault of its own."""

_SECONDS = 1.0
"""Seconds in which an administrator and a new client are answered, without the waits for a processor."""

_ENDING_SECONDS = 15.0
"""Seconds in which a daemon has ended that has closed its connections."""

_PARKED = 1
"""How many descriptors of inodes that are held may be open in addition; ``Inodes.open`` says why."""

_CLIENTS_MAX = 20_000


class Finding(AssertionError):
    """Something is wrong with the daemon."""


class Ended(Exception):
    """The daemon has ended with the exit status 0."""


class Oracle:
    """Checks one daemon, by connections of its own.

    :ivar guests: processes whose connections are never closed, so they have to stay alive and keep their locks.
    :ivar bystanders: processes that others register as owners; they have to stay alive.
    :ivar dead: the pids of processes that were owners and have ended, so their locks have to end.
    """

    def __init__(self, daemon: PrivateDaemon, lock_socket: Path, admin_socket: Path) -> None:
        self.guests: list[PeerProcess] = []
        self.bystanders: list[PeerProcess] = []
        self.dead: set[int] = set()
        self._daemon = daemon
        self._lock_socket = lock_socket
        self._admin_socket = admin_socket
        self._admin = RawAdmin(admin_socket)
        self._own_locks = locks_of(daemon.pid)
        self._logs = dict.fromkeys((daemon.log, daemon.directory / "output"), 0)
        self._descriptors = 0

    def begin(self) -> None:
        """Remember what the daemon has before it is fuzzed: its descriptors."""
        self.check()
        self._descriptors = descriptors(self._daemon)

    def check(self) -> None:
        """Check what is true at all times.

        :raises Finding: something is wrong.
        :raises Ended: the daemon has ended in good order.
        """
        self._check_alive()
        self._check_log()
        self._check_answer()
        for process in (*self.guests, *self.bystanders):
            if process.has_ended():
                raise Finding(f"the process {process.pid} was killed")

    def daemon_ends(self) -> bool:
        """Return whether the daemon ends just now, with the exit status 0."""
        with suppress(subprocess.TimeoutExpired):
            return self._daemon.process.wait(_ENDING_SECONDS) == 0
        return False

    def _check_alive(self, patience: float = 0) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._daemon.process.wait(patience)
        status = self._daemon.process.poll()
        if status == 0:
            raise Ended
        if status is not None:
            self._check_log()
            raise Finding(f"the daemon ended with status {status}")

    def _check_log(self) -> None:
        for path, read in self._logs.items():
            with suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(read)
                text = file.read()
                self._logs[path] += len(text)
                for fault in _FAULTS:
                    if fault in text:
                        start = max(0, text.index(fault) - 500)
                        raise Finding(f"{path.name}:\n{text[start : start + 6000].decode(errors='replace')}")

    def later_answer(self) -> str:
        """Describe how a new client is answered, after another was not."""
        try:
            self._ping()
        except Finding as finding:
            return str(finding)
        except Ended:
            return "it has ended"
        return "but a new client is answered"

    def _restore_settings(self) -> None:
        """Take back what calls of the admin program may have set, so that a new client is served and faults are seen."""
        limits = parameters(
            ("nclients_max", ParameterType.UINT, _CLIENTS_MAX),
            ("nclients_unauth_max", ParameterType.UINT, _CLIENTS_MAX),
        )
        for server in ("virtlockd", "admin"):
            self._call(Procedure.SET_CLIENT_LIMITS, arguments(server, limits, 0))
        log = f"3:file:{self._daemon.log}"
        self._call(Procedure.SET_LOGGING_OUTPUTS, arguments(optional(log), 0))
        self._call(Procedure.SET_LOGGING_FILTERS, arguments(optional(""), 0))

    def _call(self, procedure: Procedure, payload: bytes) -> None:
        try:
            reply = self._admin.call(procedure, payload)
        except TimeoutError:
            raise Finding("the daemon does not answer an administrator") from None
        if reply is None:
            self._check_alive(_ENDING_SECONDS)
            raise Finding("the daemon has closed the connection of an administrator")
        if reply.status:
            raise Finding(f"the daemon refuses {procedure.name}: {reply.payload!r}")

    def check_serves(self) -> None:
        """Check that an administrator is answered soon. Others may wait for worker threads, or for the next program.

        :raises Finding: he is not.
        :raises Ended: the daemon has ended in good order.
        """
        self._check_time_of(lambda: self._call(Procedure.LIST_SERVERS, arguments(0, 0)))

    def _check_answer(self) -> None:
        self._check_time_of(self._restore_settings)
        self._check_time_of(self._ping)

    def _check_time_of(self, call: Callable[[], None]) -> None:
        seconds = Stopwatch(self._daemon.pid).time(call)
        if seconds > _SECONDS:
            raise Finding(f"the daemon answers after {seconds:.1f} seconds")

    def _ping(self) -> None:
        """Connect, and get one answer."""
        try:
            with connect(self._lock_socket) as connection:
                connection.sendall(PING)
                answer = connection.recv(100)
        except (Unanswered, OSError) as error:
            self._check_alive(_ENDING_SECONDS)
            raise Finding(f"a new client is not answered: {error}") from None
        if answer != keepalive.PONG:
            raise Finding(f"a new client is answered {answer!r}")

    def check_end(self) -> None:
        """Check what is true when all other clients have left: the table is that of the kernel, and nothing has leaked.

        :raises Finding: something is wrong.
        """
        self.check()
        try:
            with StatusConnection.connect(self._admin_socket) as status:
                self._wait_for_rest(status)
                while self.bystanders:
                    bystander = self.bystanders.pop()
                    self.dead.add(bystander.pid)
                    bystander.end()
                self._wait_for_rest(status)
                locks = list(status.locks())
                self._compare_with_kernel(locks)
                self._check_guests(locks)
                pids = {guest.pid for guest in self.guests}
                for lock in locks:
                    # A number that was registered as an owner's pid may be that of any process in here.
                    owners = {owner["pid"] for owner in lock["owners"]}
                    if not any(pid in pids or Path(f"/proc/{pid}").exists() for pid in owners):
                        status.release(lock["lockspace"], lock["resource"])
                self._wait_for_rest(status)
                self._compare_with_kernel(list(status.locks()))
        except ClientError as error:
            raise Finding(f"the status program: {error}") from error
        try:
            most = self._descriptors + _PARKED
            wait_until(lambda: descriptors(self._daemon) <= most, "descriptors are closed")
        except AssertionError:
            names = sorted(self._open_files())
            raise Finding(
                f"the daemon has {len(names)} descriptors, and had {self._descriptors}: {names}"
            ) from None
        self.check()

    def _wait_for_rest(self, status: StatusConnection) -> None:
        """Wait until other clients are gone, and slow calls and fencing are done."""

        def at_rest(lock: dict[str, Any]) -> bool:
            return lock["state"] == "held" and not any(
                owner["fencing_since"] or owner["pid"] in self.dead for owner in lock["owners"]
            )

        def rests() -> bool:
            return status.daemon()["clients"] == len(self.guests) and all(map(at_rest, status.locks()))

        try:
            wait_until(rests, "")
        except AssertionError:
            clients, busy = status.daemon()["clients"], [lock for lock in status.locks() if not at_rest(lock)]
            raise Finding(
                f"the daemon does not come to rest: {clients} clients instead of {len(self.guests)}, "
                f"dead owners {self.dead}, locks {busy}"
            ) from None

    def _compare_with_kernel(self, locks: list[dict[str, Any]]) -> None:
        table = {
            (lock["device"], lock["inode"]): "WRITE" if lock["mode"] == "exclusive" else "READ"
            for lock in locks
        }
        kernel = {
            file: mode for file, mode in locks_of(self._daemon.pid).items() if file not in self._own_locks
        }
        if table != kernel:
            only = [dict(sorted(a.items() - b.items())) for a, b in ((table, kernel), (kernel, table))]
            raise Finding(f"only the table has the locks {only[0]}, only the kernel {only[1]}: {locks}")

    def _check_guests(self, locks: list[dict[str, Any]]) -> None:
        owners = [owner["pid"] for lock in locks for owner in lock["owners"]]
        for guest in self.guests:
            if owners.count(guest.pid) != 2:
                raise Finding(
                    f"the guest with pid {guest.pid} has {owners.count(guest.pid)} locks, and not 2"
                )

    def _open_files(self) -> list[str]:
        found = []
        for number in os.listdir(f"/proc/{self._daemon.pid}/fd"):
            with suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{self._daemon.pid}/fd/{number}"))
        return found

    def check_shutdown(self) -> None:
        """Check that the daemon ends if it is told to.

        :raises Finding: it does not.
        """
        self._daemon.signal(signal.SIGTERM)
        with suppress(Ended):
            self._check_alive(_ENDING_SECONDS)
            raise Finding(f"the daemon has not ended within {_ENDING_SECONDS} seconds of SIGTERM")
        self._check_log()
