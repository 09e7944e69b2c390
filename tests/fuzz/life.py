"""The life of one daemon that is fuzzed, from its start to its end."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from tests.differential import vocabulary
from tests.differential.pair import SLOW_TREE, Side
from tests.fuzz import words
from tests.fuzz.connections import Connection, Outcome, Unanswered, WrongAnswer, connect, exchange
from tests.fuzz.frames import (
    Frames,
    Fuzzed,
    closed_client,
    may_end_daemon,
    registered_pid,
)
from tests.fuzz.oracle import Ended, Finding, Oracle
from tests.peer_process import PeerProcess
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.raw_client import AUTOCREATE, SHARED, RawClient

_CONNECTIONS = 8
_STREAM_FRAMES = (1, 2, 5, 20, 60, 200)
_SHOWN_FRAMES = 10

_UPGRADES = 0.003
"""The share of the batches in which a live upgrade begins."""

_SPARED_CLIENTS = 64
"""Clients with numbers up to this are not disconnected by frames. The guests and the oracle are among them."""


class Life:
    """A daemon, the clients that send it frames, and the oracle that watches it.

    :ivar sent: how many frames were sent.
    :ivar upgrades: how many live upgrades were begun.
    :ivar outcomes: counts the answers.
    """

    def __init__(
        self, daemon: PrivateDaemon, random: Random, sockets: Path, stack: ExitStack, *, upgrades: bool
    ) -> None:
        self.sent = 0
        self.upgrades = 0
        self.outcomes: Counter[Outcome] = Counter()
        self._daemon = daemon
        self._upgrades = upgrades
        self._random = random
        self._frames = Frames(random)
        self._lock_socket, self._admin_socket = sockets / "lock", sockets / "admin"
        self._oracle = Oracle(daemon, self._lock_socket, self._admin_socket)
        self._stack = stack
        self._connections: list[Connection] = []
        self._guests: list[PeerProcess] = []
        """Guests whose connections are among the others, and may be closed at any time."""
        self._history: list[tuple[Connection, Sequence[Fuzzed]]] = []
        self._may_end = False

    def run(self, frames: int) -> None:
        """Send frames until there were the given number, or until one of them has ended the daemon.

        :raises Finding: something is wrong with the daemon.
        """
        try:
            self._settle_guests()
            self._oracle.begin()
            while self.sent < frames:
                self._batch()
                self._oracle.check()
            self._leave()
            self._oracle.check_end()
            self._oracle.check_shutdown()
        except Ended:
            if not self._may_end:
                raise Finding("the daemon ended with status 0, and nobody has told it to") from None
        except (Unanswered, WrongAnswer) as error:
            if not (self._may_end and self._oracle.daemon_ends()):
                raise Finding(f"{error}; {self._oracle.later_answer()}") from None

    def last_frames(self) -> str:
        """Describe the last frames of the last batch."""
        lines = []
        for number, (connection, frames) in enumerate(self._history, 1):
            where = f"connection {number} to the {'admin' if connection.to_admin else 'lock'} socket"
            lines.append(f"{where}, {len(frames)} frames:")
            lines += [f"  {frame.data[:150]!r}" for frame in frames[-_SHOWN_FRAMES:]]
        return "\n".join(lines)

    # Guests

    def _settle_guests(self) -> None:
        """Let two guests acquire two locks each, which they have to keep.

        Other clients register as two further processes, which are no clients.
        """
        for _ in range(2):
            bystander = PeerProcess([])
            self._stack.callback(bystander.end)
            self._oracle.bystanders.append(bystander)
            self._frames.owner_pids.append(bystander.pid)
        for number in range(2):
            guest = self._guest()
            client = RawClient(guest.connections[0], guest.pid, name=f"guest {number}")
            assert client.create_lockspace(words.GUARDED_LOCKSPACE) is None
            if number:
                lease = words.GUARDED_LEASE
                assert client.acquire(lease, words.GUARDED_LOCKSPACE, SHARED | AUTOCREATE) is None
                assert client.acquire(f"{SLOW_TREE}/guarded", flags=AUTOCREATE) is None
            else:
                assert client.acquire(words.GUARDED_DISK) is None
                assert client.acquire(f"{words.GUARDED_DISK} of a guest", flags=AUTOCREATE) is None
            self._oracle.guests.append(guest)

    def _guest(self) -> PeerProcess:
        guest = PeerProcess([self._lock_socket])
        self._stack.callback(guest.end)
        if not guest.connections:
            raise Unanswered("the daemon accepts no connection of a guest")
        return guest

    def _dismiss(self, guest: PeerProcess) -> None:
        """Let a guest go: it dies, or it hangs up while it lives, so the daemon has to kill it if it holds a lock."""
        self._guests.remove(guest)
        connection = next(one for one in self._connections if one.socket is guest.connections[0])
        self._connections.remove(connection)
        if self._random.random() < 0.5:
            connection.hang_up()
        guest.end()
        self._oracle.dead.add(guest.pid)

    # Batches

    def _batch(self) -> None:
        """Send frames on some connections at the same time, and read the answers."""
        random = self._random
        self._history.clear()
        self._open_connections()
        chosen = random.sample(self._connections, min(random.choice((1, 1, 2, 3)), len(self._connections)))
        hasty = []
        for connection in chosen:
            frames = self._stream(connection)
            self._history.append((connection, frames))
            self.sent += len(frames)
            patient = random.random() < 0.95
            size = len(frames[-1].data)
            cut = random.randrange(size) if size and random.random() < 0.05 else 0
            is_short = sum(len(frame.data) for frame in frames) < 2_000
            piece = random.choice((1, 27, 29, 1000)) if is_short and random.random() < 0.1 else 200_000
            descriptors = [0] * random.choice((1, 200)) if random.random() < 0.02 else []
            connection.say(frames, cut=cut, patient=patient, piece=piece, descriptors=descriptors)
            if not patient:
                # It hangs up in the middle of a call.
                hasty.append(connection)
        if random.random() < _UPGRADES and self._upgrades:
            # The program is replaced while calls are on their way. Both programs may answer some of them.
            self._daemon.signal(signal.SIGUSR1)
            self.upgrades += 1
        exchange(chosen, self._oracle.check_serves)
        self._check_closed(hasty)
        for connection in list(self._connections):
            if connection in hasty or not connection.is_open or random.random() < 0.02:
                self._drop(connection)

    def _open_connections(self) -> None:
        random = self._random
        opened = []
        while len(self._connections) < 2 or (len(self._connections) < _CONNECTIONS and random.random() < 0.2):
            if random.random() < 0.03:
                guest = self._guest()
                self._guests.append(guest)
                connection = Connection(guest.connections[0], self.outcomes, to_admin=False)
                connection.say([Fuzzed(self._frames.register(guest.pid))])
            else:
                to_admin = random.random() < 0.4
                path = self._admin_socket if to_admin else self._lock_socket
                connection = Connection(connect(path), self.outcomes, to_admin=to_admin)
                register = not to_admin and random.random() < 0.9
                connection.say([Fuzzed(self._frames.register())] if register else [])
            self._frames.clients += 1
            self._connections.append(connection)
            opened.append(connection)
        # A frame of another connection may limit the number of clients; these are accepted before.
        exchange(opened, self._oracle.check_serves)

    def _drop(self, connection: Connection) -> None:
        for guest in self._guests:
            if guest.connections[0] is connection.socket:
                self._dismiss(guest)
                return
        self._connections.remove(connection)
        connection.close()

    def _stream(self, connection: Connection) -> list[Fuzzed]:
        number = self._random.choice(_STREAM_FRAMES)
        frames: list[Fuzzed] = []
        while len(frames) < number:
            frame = self._frames.frame(to_admin=connection.to_admin)
            if self._is_harmless(frame.data):
                frames.append(frame)
                if not frame.leads_on:
                    # What follows is most often not answered.
                    number = min(number, len(frames) + 2)
        return frames

    def _is_harmless(self, data: bytes) -> bool:
        """Return whether a frame leaves alone whom the oracle relies on.

        They are clients that have to stay connected, and guests: only a guest itself registers as its pid. This
        process must not be an owner, as it cannot be killed in this pid namespace: the daemon would wait for its
        end for ever.
        """
        client, pid = closed_client(data), registered_pid(data)
        if client is not None and client <= _SPARED_CLIENTS:
            return False
        guests = [guest.pid for guest in (*self._guests, *self._oracle.guests)]
        if pid in (os.getpid(), *guests) or pid in self._oracle.dead:
            return False
        self._may_end = self._may_end or may_end_daemon(data)
        return True

    def _check_closed(self, hasty: Sequence[Connection]) -> None:
        """Check that the daemon has closed no connection without a reason.

        :param hasty: connections that this process closes.
        :raises Finding: it has.
        """
        sent = [frame for _, frames in self._history for frame in frames]
        if any(may_end_daemon(frame.data) or closed_client(frame.data) is not None for frame in sent):
            # Any connection may have been closed; those that did not take part are asked.
            idle = [connection for connection in self._connections if connection not in hasty]
            for connection in idle:
                connection.say([])
            exchange(idle, self._oracle.check_serves)
            return
        if not all(connection.is_open or connection.is_ending for connection, _ in self._history):
            self._oracle.check()
            raise Finding("the daemon has closed a connection without a reason")

    def _leave(self) -> None:
        for connection in list(self._connections):
            self._drop(connection)


@contextmanager
def life(directory: Path, command: Sequence[str], random: Random) -> Iterator[Life]:
    """Run a daemon whose files are below a directory, which is removed at the end.

    :param command: the command of the daemon.
    """
    *wrapper, program = command
    directory.mkdir()
    sockets = directory / "sockets"
    try:
        with (
            private_daemon(
                directory / "daemon", Path(program), wrapper=wrapper, settings="max_clients = 20000\n"
            ) as daemon,
            ExitStack() as stack,
        ):
            _furnish(daemon)
            # Clients may tell the daemon to remove its sockets. They can still be reached by these other names.
            sockets.mkdir()
            os.link(daemon.socket, sockets / "lock")
            os.link(daemon.admin_socket, sockets / "admin")
            # An upgrade runs the program without its wrapper.
            yield Life(daemon, random, sockets, stack, upgrades=not wrapper)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _furnish(daemon: PrivateDaemon) -> None:
    side = Side(daemon)
    side.make_trees()
    vocabulary.furnish(side.root)
    for name in ("log", "guarded"):
        (daemon.run_directory / name).mkdir()
    (daemon.run_directory / "guarded" / "disk").touch()
