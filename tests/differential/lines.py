"""Lines: a line is a pair of connections that sends the same data to both daemons."""

from tests.differential.pair import PING, Answer, End, Pair
from tests.peer_process import PeerProcess
from tests.waiting import wait_until


class Line:
    """A connection of this process to each daemon."""

    is_guest = False

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._ends = self._connect()

    def _connect(self) -> list[End]:
        return [End(side.daemon.connect()) for side in self._pair.sides]

    def exchange(self, data: bytes, pings: int = 0) -> list[Answer]:
        """Send data, which contains the given number of PINGs, and one more PING; return both answers."""
        for end in self._ends:
            end.send(data + PING)
        return [end.receive(pings + 1) for end in self._ends]

    def say(self, data: bytes) -> None:
        """Send data without waiting for an answer, as for a part of a frame."""
        for end in self._ends:
            end.send(data)

    def close(self) -> None:
        """Close the connections, and wait until both daemons have handled that."""
        for end in self._ends:
            end.close()
        self._pair.settle()


class GuestLine(Line):
    """A line of a separate process, whose locks end with it."""

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
        """Kill the process, and wait until both daemons have released its locks."""
        self._process.end()
        self._pair.settle()
        wait_until(lambda: not self._pair.ours_has_locks_of(self.pid), f"lockd ends the locks of {self.pid}")
