"""Lines: connections that say the same to both daemons."""

from tests.differential.pair import PING, Answer, End, Pair
from tests.peer_process import PeerProcess
from tests.waiting import wait_until


class Line:
    """A connection to each daemon, from this process."""

    is_guest = False

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._ends = self._connect()

    def _connect(self) -> list[End]:
        return [End(side.daemon.connect()) for side in self._pair.sides]

    def exchange(self, data: bytes, pings: int = 0) -> list[Answer]:
        """Send data, which has so many PINGs in it, and one more; return both daemons' answers."""
        for end in self._ends:
            end.send(data + PING)
        return [end.receive(pings + 1) for end in self._ends]

    def say(self, data: bytes) -> None:
        """Send data that no answer can come to yet."""
        for end in self._ends:
            end.send(data)

    def close(self) -> None:
        """End the connections, and return once both daemons have noticed."""
        for end in self._ends:
            end.close()
        self._pair.settle()


class GuestLine(Line):
    """A line from a process of its own: what it has locked ends with it."""

    is_guest = True

    def _connect(self) -> list[End]:
        self._process = PeerProcess([side.daemon.socket for side in self._pair.sides])
        for connection in self._process.connections:
            connection.settimeout(15)
        return [End(connection) for connection in self._process.connections]

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """Kill the process, and return once both daemons have released what it held."""
        self._process.end()
        self._pair.settle()
        wait_until(lambda: not self._pair.ours_has_locks_of(self.pid), f"lockd ends the locks of {self.pid}")
