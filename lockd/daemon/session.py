"""A session: one client's connection, from its bytes to its replies."""

import logging
import os
import socket
import struct
from time import time
from typing import Final

from lockd.daemon.owner_process import OwnerProcess
from lockd.daemon.reactor import HUNG_UP, READABLE, WRITABLE, Flushable, Reactor
from lockd.wire.frames import Frame, FrameError, FrameReader

_RECEIVE_BYTES: Final = 65536
_FIRST_BYTES: Final = 478
"""What is read first: most calls are less, and Python keeps up to so many bytes in 512, which cost no malloc (measured:
a thirtieth of a call's instructions)."""
_CALLS_PER_TURN: Final = 32
"""Calls that one connection has answered before the others get their turn, however many it sends at once."""

_read: Final = os.read
_write: Final = os.write

_CREDENTIALS: Final = struct.Struct("3i")

_logger = logging.getLogger(__name__)


class Service:
    """What a session tells and asks; ``server`` has it. A class, and no protocol: compiled code calls it directly."""

    name: str
    payload_kept: int

    def answer(self, session: "Session", call: Frame) -> bytes | None:
        """Return the reply's bytes; None where they will come later, empty where there are none.

        :raises FrameError: the client cannot be followed any further.
        """
        raise NotImplementedError

    def ended(self, session: "Session") -> None:
        """Forget a client whose connection ends."""
        raise NotImplementedError


class Session(Flushable):
    """One client's connection. Its calls are answered in order, one at a time.

    A client that does not read its replies is not read from either: no more than one turn's replies wait.

    :ivar fd: the connection.
    :ivar id: the daemon's number for the connection, counted from 1.
    :ivar connected_at: seconds since the epoch.
    :ivar peer_pid: the process at the other end when it connected (SO_PEERCRED); 0 where it is in a pid
        namespace that this one cannot see.
    :ivar owner: for whom it acquires and releases, once it has registered.
    :ivar restricted: whether it has given up all further lock calls.
    :ivar waiting_call: the call that a worker thread is busy with.
    """

    __slots__ = (
        "_behind",
        "_output",
        "_reactor",
        "_server",
        "_stuck",
        "closed",
        "connected_at",
        "fd",
        "id",
        "owner",
        "peer_gid",
        "peer_pid",
        "peer_uid",
        "reader",
        "restricted",
        "waiting_call",
    )

    def __init__(self, server: Service, reactor: Reactor, connection: socket.socket, number: int) -> None:
        self._server = server
        self._reactor = reactor
        self._output = b""
        self._stuck = False
        self._behind = False
        self.id = number
        self.connected_at = int(time())
        self.peer_pid, self.peer_uid, self.peer_gid = peer_credentials(connection)
        # Of the socket, its descriptor is all that is needed: with 4000 guests, 0.4 MB less.
        self.fd = connection.detach()
        self.reader = FrameReader(server.payload_kept)
        self.owner: OwnerProcess | None = None
        self.restricted = False
        self.waiting_call: Frame | None = None
        self.closed = False

    def start(self) -> None:
        """Begin to serve."""
        self._reactor.watch(self.fd, READABLE, self)

    @property
    def unsent(self) -> bytes:
        """The replies, or the rest of one, that the client has not read yet."""
        return self._output

    def resume(self, call: Frame | None, unsent: bytes) -> None:
        """Go on where another process stopped: send what it could not, and put its waiting call again."""
        self._output = unsent
        if call is not None:
            self._serve(call)
        self.flush()
        self._reactor.again(self._serve_on)

    def on_ready(self, ready: int) -> None:
        """Serve the connection, on which these events are ready; of none, go on with what has arrived."""
        try:
            if ready & READABLE:
                # Who sends faster than it is served is read no faster.
                if not self._behind:
                    self._receive()
            elif ready & WRITABLE:
                self.flush()
            elif ready & HUNG_UP:
                self.close()
            elif not (self.waiting_call or self._stuck or self.closed):
                self._serve(self.reader.next_frame())
        except FrameError as error:
            _logger.info("client %d of %s sent %s", self.id, self._server.name, error)
            # What was done for the calls before has to be said.
            self.flush()
            self.close()
        except Exception:
            # A fault of the daemon's own costs this connection, and not the locks of all others.
            _logger.exception("client %d of %s could not be served", self.id, self._server.name)
            self.close()

    def _receive(self) -> None:
        try:
            data = _read(self.fd, _FIRST_BYTES if self.reader.is_empty else _RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._serve(self.reader.receive(data))
        else:
            self.close()

    def _serve(self, call: Frame | None) -> None:
        """Answer a call and those that have arrived behind it, as many as one turn allows.

        Replies are sent at the end of the turn. Sending wakes the peer, which costs more than all the rest of a
        call; of peers that are woken together, most need not be.
        """
        served = 0
        while call is not None:
            reply = self._server.answer(self, call)
            if reply is None:
                self.waiting_call = call
                self._behind = True
                self._watch_what_matters()
                return
            if self._output:
                self._output += reply
            else:
                self._output = reply
                self._reactor.flush_later(self)
            if self.reader.is_empty or self.closed:
                break
            served += 1
            if served == _CALLS_PER_TURN:
                self._behind = True
                self._reactor.again(self._serve_on)
                return
            call = self.reader.next_frame()
        self._behind = False

    def _serve_on(self) -> None:
        self.on_ready(0)

    def finish(self, reply: bytes) -> None:
        """Send the reply to the waiting call, and go on with the next one."""
        self.waiting_call = None
        if not self.closed:
            self._output += reply
            self._watch_what_matters()
            self.flush()
            self._reactor.again(self._serve_on)

    def flush(self) -> None:
        """Send what waits to be sent, as far as the client reads it."""
        output = self._output
        if self.closed or not output:
            return
        try:
            sent = _write(self.fd, output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        stuck = sent < len(output)
        self._output = output[sent:] if stuck else b""
        if stuck is not self._stuck:
            self._stuck = stuck
            self._watch_what_matters()
            self._reactor.again(self._serve_on)

    def _watch_what_matters(self) -> None:
        if self._stuck:
            self._reactor.change(self.fd, WRITABLE)
        else:
            self._reactor.change(self.fd, 0 if self.waiting_call else READABLE)

    def hang_up(self) -> None:
        """End the connection, and tell nobody."""
        self.closed = True
        os.close(self.fd)

    def close(self) -> None:
        """End the connection."""
        if not self.closed:
            self.closed = True
            self._reactor.forget(self.fd)
            self._server.ended(self)
            os.close(self.fd)


def peer_credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of the process that connected (SO_PEERCRED in unix(7))."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return pid, uid, gid
