"""A session: the connection of one client.

It reads calls, has the server answer them, and sends the replies.
"""

import errno
import logging
import os
import socket
from time import time
from typing import Final, TypeAlias

from lockd.daemon.owner_process import OwnerProcess, owner_name
from lockd.daemon.rate_limit import RateLimit, Trouble, faults
from lockd.daemon.reactor import HUNG_UP, READABLE, WRITABLE, Flushable, Reactor
from lockd.daemon.session_state import TRANSITIONS, WATCHED, SessionEvent, SessionState
from lockd.linux.peers import credentials_of
from lockd.linux.processes import ticks_now
from lockd.wire.frames import Frame, FrameError, FrameReader

Reply: TypeAlias = bytes | None
"""The answer to a frame: the bytes to send, ``NO_REPLY`` or ``LATER``."""

NO_REPLY: Final = b""
"""The frame is not answered."""

LATER: Final = None
"""A worker thread is busy with the call. ``Session.finish`` sends the reply when that is done."""

_RECEIVE_BYTES: Final = 65536
"""How many bytes are read at once if a part of a frame has arrived already."""

_FIRST_BYTES: Final = 478
"""How many bytes are read at once otherwise. Most calls are shorter. A bytes object of this size takes 512
bytes, which Python allocates without malloc(3); that saves a thirtieth of a call's instructions
(measured)."""

_CALLS_PER_TURN: Final = 32
"""How many calls of one connection are answered in one turn, before the other connections are served."""

_GONE: Final = frozenset((errno.ECONNRESET, errno.EPIPE))
"""The errors of read(2) and write(2) if the peer has closed the connection."""

_WITHOUT_MEMORY: Final = frozenset((errno.ENOMEM, errno.ENOBUFS))

_OUTPUT_BYTES: Final = 256 * 1024
"""No further call is answered before replies of this size are sent: a page of a list may be as long."""

_read: Final = os.read
_write: Final = os.write

# Looking up a global is several times as fast as looking up a member of an enumeration.
_READING: Final = SessionState.READING
_BEHIND: Final = SessionState.BEHIND
_CLOSED: Final = SessionState.CLOSED

_logger = logging.getLogger(__name__)
_invalid = RateLimit(_logger, "invalid frames")
_memory = Trouble(_logger)


class Service:
    """Callbacks that a Session makes into its Server. A base class, so that mypyc calls them directly.

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
        :raises FrameError: the frame announces descriptors. The rest of the stream cannot be understood, and
            the connection has to be closed.
        """
        raise NotImplementedError

    def fault(self, session: "Session", call: Frame) -> bytes:
        """Log the exception that is being handled, and encode the reply to the call that could not be answered.

        A fault of the daemon is not the client's: its connection stays, as its owner would be killed with it.

        :param session: the client that sent the call.
        :param call: the call.
        :returns: the bytes of the reply.
        """
        raise NotImplementedError

    def ended(self, session: "Session") -> None:
        """Forget a client whose connection is being closed.

        :param session: the client.
        """
        raise NotImplementedError


class Session(Flushable):
    """The connection of one client. Its calls are answered in order, one at a time.

    ``SessionState`` describes the states of a session.

    :param server: the server that the client belongs to.
    :param reactor: calls the session when the connection is ready.
    :param connection: the connected socket, non-blocking. The session detaches its descriptor, and closes it
        later. If the constructor fails, the socket is as it was.
    :param number: the server's number for the connection, counted from 1.
    :ivar fd: the descriptor of the connection.
    :ivar id: the server's number for the connection.
    :ivar connected_at: when the client connected, in seconds since the epoch.
    :ivar connected: likewise, as ``ticks_now`` counts; None if it is not known, as after virtlockd.
    :ivar peer_pid: the pid of the process that connected; 0 if it is in a pid namespace that the daemon
        cannot see.
    :ivar peer_uid: the user id of that process.
    :ivar peer_gid: the group id of that process.
    :ivar reader: cuts the received bytes into frames.
    :ivar owner: the owner that the client acquires and releases for; None until it has registered one.
    :ivar registered_pid: the pid of the owner as the client has registered it; 0 until then. Another client of the
        owner may know it by another pid: see ``pid_namespaces(7)``.
    :ivar abandoned: whether the daemon has closed the connection because of a fault of its own. Then the owner is
        not fenced and keeps its locks; they end with its process.
    :ivar restricted: whether the client has called RESTRICT. Its further lock calls are refused.
    :ivar waiting_call: the call that a worker thread is busy with, or None.
    """

    __slots__ = (
        "_output",
        "_reactor",
        "_server",
        "_state",
        "abandoned",
        "connected",
        "connected_at",
        "fd",
        "id",
        "owner",
        "peer_gid",
        "peer_pid",
        "peer_uid",
        "reader",
        "registered_pid",
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
        self.connected: int | None = ticks_now()
        peer = credentials_of(connection)
        self.peer_pid = peer.pid
        self.peer_uid = peer.uid
        self.peer_gid = peer.gid
        self.reader = FrameReader(server.payload_kept)
        self.owner: OwnerProcess | None = None
        self.registered_pid = 0
        self.restricted = False
        self.abandoned = False
        self.waiting_call: Frame | None = None
        # Only the descriptor is needed. With 4000 guests, socket objects would take 0.4 MB more.
        self.fd = connection.detach()

    def start(self) -> None:
        """Begin to serve the connection.

        :raises OSError: the connection cannot be watched (epoll_ctl(2)).
        """
        self._reactor.watch(self.fd, READABLE, self)

    def is_open(self) -> bool:
        """Return whether the connection is open."""
        return self._state is not _CLOSED

    def describe(self) -> str:
        """Return a description of the client for error messages and the log: its number, and its owner or process."""
        return f"client {self.id}, {owner_name(self.peer_pid, self.owner)}"

    @property
    def unsent(self) -> bytes:
        """The bytes of replies that are not sent yet. They may begin within a reply."""
        return self._output

    def resume(self, call: Frame | None, unsent: bytes) -> None:
        """Continue a session of the program before this one, after a live upgrade.

        :param call: the call that a worker thread was busy with or had yet to begin, or None. It is served
            anew.
        :param unsent: the bytes of replies that were not sent.
        """
        self._output = unsent
        # The reader may hold further calls.
        self._state = _BEHIND
        if call is not None:
            self._serve(call)
        self.flush()
        self._reactor.again(self._serve_on)

    def on_ready(self, ready: int) -> None:
        """Serve the connection. See ``Watcher.on_ready``.

        :param ready: the events that are ready; 0 to answer calls that were read before.
        """
        try:
            if ready & READABLE:
                # In the other states nothing is read, so that a client cannot send faster than it is served.
                if self._state is _READING:
                    self._receive()
            elif ready & WRITABLE:
                self.flush()
            elif ready & HUNG_UP:
                self.close()
            elif self._state is _BEHIND:
                self._serve(self.reader.next_frame())
        except FrameError as error:
            if _invalid.allows():
                _logger.info("client %d of %s sent %s", self.id, self._server.name, error)
            # Replies to the calls before the invalid frame are still due.
            self.flush()
            self.close()
        except Exception:
            self._abandon()

    def _receive(self) -> None:
        try:
            data = _read(self.fd, _FIRST_BYTES if self.reader.is_empty else _RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            # Without memory, what the client has sent, or that it has hung up, is still to be read.
            if error.errno in _WITHOUT_MEMORY:
                self._wait_for_memory(error)
            else:
                self._lost(error)
            return
        if data:
            self._serve(self.reader.receive(data))
        else:
            self.close()

    def _serve(self, call: Frame | None) -> None:
        """Answer a call and the calls that arrived behind it, ``_CALLS_PER_TURN`` at most.

        Fewer are answered if their replies are long. The replies are sent at the end of the turn. Sending a
        reply wakes the client, which costs more than the rest of the call. If many clients are woken at the same
        time, most of them have sent their next call when the reactor polls again.
        """
        served = 0
        while call is not None:
            try:
                reply = self._server.answer(self, call)
            except FrameError:
                raise
            except Exception:
                reply = self._server.fault(self, call)
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
            if served == _CALLS_PER_TURN or len(self._output) >= _OUTPUT_BYTES:
                self._change(SessionEvent.TURN_USED_UP)
                self._reactor.again(self._serve_on)
                return
            call = self.reader.next_frame()
        if self._state is _BEHIND:
            self._change(SessionEvent.ALL_SERVED)

    def _serve_on(self) -> None:
        self.on_ready(0)

    def fault(self, call: Frame) -> bytes:
        """Log the exception that is being handled, and encode the reply to the call. See ``Service.fault``.

        :param call: the call that could not be answered.
        :returns: the bytes of the reply.
        """
        return self._server.fault(self, call)

    def finish(self, reply: bytes) -> None:
        """Send the reply to ``waiting_call``, and continue with the next call.

        No effect if the connection is closed.

        :param reply: the bytes of the reply.
        """
        self.waiting_call = None
        if self._state is _CLOSED:
            return
        try:
            self._output += reply
            self._change(SessionEvent.CALL_FINISHED)
            self._send()
            self._reactor.again(self._serve_on)
        except Exception:
            self._abandon()

    def flush(self) -> None:
        """Send the waiting replies, as far as the socket takes them. See ``Flushable.flush``."""
        try:
            self._send()
        except Exception:
            self._abandon()

    def _send(self) -> None:
        output = self._output
        if self._state is _CLOSED or not output:
            return
        try:
            sent = _write(self.fd, output)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if error.errno not in _WITHOUT_MEMORY:
                self._lost(error)
                return
            self._change(SessionEvent.REPLIES_STUCK)
            self._wait_for_memory(error)
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

    def _wait_for_memory(self, error: OSError) -> None:
        """Have the connection served later: it is ready, and would be served without a pause and without success."""
        _memory.seen(
            "clients are served later: %s; the host needs more memory", os.strerror(error.errno or 0)
        )
        self._reactor.pause(self.fd, WATCHED[self._state])

    def _lost(self, error: OSError) -> None:
        """Close the connection after an error of the socket."""
        if error.errno in _GONE:
            self.close()
            return
        if faults.allows():
            _logger.error(
                "the connection of client %d of %s failed: %s; it is closed, and its owner keeps its locks",
                self.id,
                self._server.name,
                error.strerror,
            )
        self.abandon()

    def _abandon(self) -> None:
        """Log the exception that is being handled, and close the connection for it without fencing the owner.

        The client cannot be served any further, but it has not hung up.
        """
        if faults.allows():
            _logger.exception(
                "client %d of %s could not be served: its connection is closed, and its owner keeps its locks",
                self.id,
                self._server.name,
            )
        self.abandon()

    def abandon(self) -> None:
        """Close the connection because of a fault of the daemon. See ``abandoned``."""
        self.abandoned = True
        self.close()

    def hang_up(self) -> None:
        """Close an open connection without a call to the server or the reactor.

        For a session that was never started, and for the end of the daemon, when the reactor has stopped.
        """
        self._state = _CLOSED
        os.close(self.fd)

    def close(self) -> None:
        """Close the connection, and have the server forget the session; no effect if it is closed."""
        if self._state is not _CLOSED:
            self._state = _CLOSED
            try:
                self._reactor.forget(self.fd)
            finally:
                try:
                    self._server.ended(self)
                finally:
                    os.close(self.fd)
