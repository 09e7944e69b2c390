"""A session: one client's connection, from its bytes to its replies."""

import logging
import os
import socket
from time import time
from typing import Final, TypeAlias

from lockd.daemon.owner_process import OwnerProcess
from lockd.daemon.reactor import HUNG_UP, READABLE, WRITABLE, Flushable, Reactor
from lockd.daemon.session_state import TRANSITIONS, WATCHED, SessionEvent, SessionState
from lockd.linux.peers import credentials_of
from lockd.wire.frames import Frame, FrameError, FrameReader

Reply: TypeAlias = bytes | None
"""What a call is answered with: the bytes to send, ``NO_REPLY`` or ``LATER``."""

NO_REPLY: Final = b""
"""The frame is not answered."""

LATER: Final = None
"""The call is answered when a worker thread is done with it: by ``Session.finish``."""

_RECEIVE_BYTES: Final = 65536
_FIRST_BYTES: Final = 478
"""How much is read first. Most calls are shorter, and Python keeps a bytes object of this size in 512 bytes, which need
no malloc(3) (measured: a thirtieth of a call's instructions)."""
_CALLS_PER_TURN: Final = 32
"""Calls that one connection has answered before the others get their turn, however many it sends at once."""

_read: Final = os.read
_write: Final = os.write

# Members of an enumeration take several times as long to look up.
_READING: Final = SessionState.READING
_BEHIND: Final = SessionState.BEHIND
_CLOSED: Final = SessionState.CLOSED

_logger = logging.getLogger(__name__)


class Service:
    """Callbacks that a Session makes into its Server. A base class, so that compiled code calls them directly.

    :ivar name: the server's name, for the log.
    :ivar payload_kept: how many bytes of a call's payload are kept; see ``FrameReader``.
    """

    name: str
    payload_kept: int

    def answer(self, session: "Session", call: Frame) -> Reply:
        """Answer a frame.

        :param session: the client that sent it.
        :param call: the frame.
        :returns: the bytes of the reply, ``NO_REPLY`` or ``LATER``.
        :raises FrameError: the rest of the stream cannot be understood any more.
        """
        raise NotImplementedError

    def ended(self, session: "Session") -> None:
        """Forget a client whose connection ends.

        :param session: the client.
        """
        raise NotImplementedError


class Session(Flushable):
    """One client's connection. Its calls are answered in order, one at a time.

    ``SessionState`` tells what it does when.

    :param server: whose client it is.
    :param reactor: what tells when the connection is ready.
    :param connection: the connected socket. The session takes its descriptor over.
    :param number: the server's number for the connection, counted from 1.
    :ivar fd: the descriptor of the connection.
    :ivar id: the server's number for the connection.
    :ivar connected_at: when it was made, in seconds since the epoch.
    :ivar peer_pid: the process that connected; 0 where it is in a pid namespace that the daemon cannot see.
    :ivar peer_uid: the user of that process.
    :ivar peer_gid: the group of that process.
    :ivar reader: cuts what arrives into frames.
    :ivar owner: for whom the client acquires and releases, once it has registered.
    :ivar restricted: whether the client has given up all further lock calls.
    :ivar waiting_call: the call that a worker thread is busy with.
    """

    __slots__ = (
        "_output",
        "_reactor",
        "_server",
        "_state",
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
        self._state = _READING
        self.id = number
        self.connected_at = int(time())
        peer = credentials_of(connection)
        self.peer_pid = peer.pid
        self.peer_uid = peer.uid
        self.peer_gid = peer.gid
        # A socket object would take 0.4 MB more with 4000 guests, and only the descriptor is needed.
        self.fd = connection.detach()
        self.reader = FrameReader(server.payload_kept)
        self.owner: OwnerProcess | None = None
        self.restricted = False
        self.waiting_call: Frame | None = None

    def start(self) -> None:
        """Begin to serve."""
        self._reactor.watch(self.fd, READABLE, self)

    def is_open(self) -> bool:
        """Return whether the connection has not ended."""
        return self._state is not _CLOSED

    @property
    def unsent(self) -> bytes:
        """The replies, or the rest of one, that the client has not read yet."""
        return self._output

    def resume(self, call: Frame | None, unsent: bytes) -> None:
        """Go on where the program before this one stopped.

        :param call: the call that had not been answered, if any. It is put again.
        :param unsent: what had not been sent.
        """
        self._output = unsent
        # Further calls may have arrived.
        self._state = _BEHIND
        if call is not None:
            self._serve(call)
        self.flush()
        self._reactor.again(self._serve_on)

    def on_ready(self, ready: int) -> None:
        """Serve the connection.

        :param ready: the events that are ready on it; 0 to go on with what has arrived already.
        """
        try:
            if ready & READABLE:
                # A client that sends faster than it is served is read no faster.
                if self._state is _READING:
                    self._receive()
            elif ready & WRITABLE:
                self.flush()
            elif ready & HUNG_UP:
                self.close()
            elif self._state is _BEHIND:
                self._serve(self.reader.next_frame())
        except FrameError as error:
            _logger.info("client %d of %s sent %s", self.id, self._server.name, error)
            # The calls before this one were done: their replies are due.
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
        call. Of peers that are woken together, most have called again before they are asked.
        """
        served = 0
        while call is not None:
            reply = self._server.answer(self, call)
            if reply is LATER:
                self.waiting_call = call
                self._change(SessionEvent.CALL_DEFERRED)
                return
            if self._output:
                self._output += reply
            else:
                self._output = reply
                self._reactor.flush_later(self)
            if self.reader.is_empty or self._state is _CLOSED:
                break
            served += 1
            if served == _CALLS_PER_TURN:
                self._change(SessionEvent.TURN_USED_UP)
                self._reactor.again(self._serve_on)
                return
            call = self.reader.next_frame()
        if self._state is _BEHIND:
            self._change(SessionEvent.ALL_SERVED)

    def _serve_on(self) -> None:
        self.on_ready(0)

    def finish(self, reply: bytes) -> None:
        """Send the reply to the waiting call, and go on with the next one.

        :param reply: the bytes of the reply.
        """
        self.waiting_call = None
        if self._state is not _CLOSED:
            self._output += reply
            self._change(SessionEvent.CALL_FINISHED)
            self.flush()
            self._reactor.again(self._serve_on)

    def flush(self) -> None:
        """Send what waits to be sent, as far as the client reads it."""
        output = self._output
        if self._state is _CLOSED or not output:
            return
        try:
            sent = _write(self.fd, output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(output):
            self._output = output[sent:]
            self._change(SessionEvent.REPLIES_STUCK)
            return
        self._output = b""
        if self._state is not _READING:
            self._change(SessionEvent.REPLIES_SENT)
            if self._state is _BEHIND:
                self._reactor.again(self._serve_on)

    def _change(self, event: SessionEvent) -> None:
        before = self._state
        self._state = TRANSITIONS[before, event]
        watched = WATCHED[self._state]
        if watched != WATCHED[before]:
            self._reactor.change(self.fd, watched)

    def hang_up(self) -> None:
        """End the connection without telling the server."""
        self._state = _CLOSED
        os.close(self.fd)

    def close(self) -> None:
        """End the connection."""
        if self._state is not _CLOSED:
            self._state = _CLOSED
            self._reactor.forget(self.fd)
            self._server.ended(self)
            os.close(self.fd)
