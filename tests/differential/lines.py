"""Lines: connections that say the same to both daemons."""

import os
import pickle
import signal
import socket
import struct

from tests.differential.pair import PING, Answer, End, Pair
from tests.waiting import wait_until

_SIZE = struct.Struct("I")


class Line:
    """A connection to each daemon, from this process."""

    def __init__(self, pair: Pair) -> None:
        self._ends = [End(side.daemon) for side in pair.sides]

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
        for end in self._ends:
            end.close()


class GuestLine:
    """A line from a process of its own, as a guest's is: its locks end with it."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._agent, agent_end = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._agent.close()
                _serve(Line(pair), agent_end)
            finally:
                os._exit(1)
        agent_end.close()

    def exchange(self, data: bytes, pings: int = 0) -> list[Answer]:
        _put(self._agent, pickle.dumps((data, pings)))
        answers: list[Answer] = pickle.loads(_take(self._agent))
        return answers

    def close(self) -> None:
        """Kill the process, and return once both daemons have released what it held."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._agent.close()
        self._pair.settle()
        wait_until(lambda: not self._pair.ours_has_locks_of(self.pid), f"lockd ends the locks of {self.pid}")


def _serve(line: Line, agent: socket.socket) -> None:
    while True:
        data, pings = pickle.loads(_take(agent))
        _put(agent, pickle.dumps(line.exchange(data, pings)))


def _put(agent: socket.socket, data: bytes) -> None:
    agent.sendall(_SIZE.pack(len(data)) + data)


def _take(agent: socket.socket) -> bytes:
    (size,) = _SIZE.unpack(_exactly(agent, _SIZE.size))
    return _exactly(agent, size)


def _exactly(agent: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = agent.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
