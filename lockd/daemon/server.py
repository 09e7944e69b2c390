"""A server: its listening sockets, the clients that connected to them, and the programs that these may call.

A daemon has two servers, as virtlockd has: ``virtlockd`` for locks and ``admin`` for administration.
"""

import errno
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

from lockd.daemon.rate_limit import RateLimit, Trouble, faults
from lockd.daemon.reactor import READABLE, FunctionWatcher, Reactor
from lockd.daemon.session import NO_REPLY, Reply, Service, Session
from lockd.wire import keepalive
from lockd.wire.errors import ErrorReply, internal_error, rpc_error, signed
from lockd.wire.frames import Frame, FrameType, Status, encode_reply, kind, without_descriptors

LOCK_SERVER: Final = "virtlockd"
ADMIN_SERVER: Final = "admin"
"""The names of the servers, as virt-admin shows them."""

_ACCEPTED_PER_TURN: Final = 64
_REMEDIES: Final = {
    errno.EMFILE: "raise LimitNOFILE= of virtlockd.service (ulimit -n)",
    errno.ENFILE: "raise fs.file-max (sysctl)",
    errno.ENOSPC: "raise fs.epoll.max_user_watches (sysctl)",
    errno.ENOMEM: "the host needs more memory",
    errno.ENOBUFS: "the host needs more memory",
}
"""What an administrator can do if a client cannot be accepted or watched, by the errno."""

ProgramKey: TypeAlias = tuple[int, int]
"""The number and the version of a program."""

_logger = logging.getLogger(__name__)
_refusals = RateLimit(_logger, "refused calls")
_foreigners = RateLimit(_logger, "refused connections")
_out_of_resources = Trouble(_logger)


class Handler:
    """Answers the calls of one procedure. A base class, so that mypyc calls it directly."""

    def answer(self, session: Session, call: Frame) -> Reply:
        """Answer a call.

        :param session: the client that sent the call.
        :param call: the call.
        :returns: the bytes of the reply, ``NO_REPLY``, or ``LATER`` if the reply is passed to
            ``Session.finish`` later.
        """
        raise NotImplementedError


class FunctionHandler(Handler):
    """Answers the calls of one procedure with a function.

    :param function: does what ``Handler.answer`` does.
    """

    def __init__(self, function: Callable[[Session, Frame], Reply]) -> None:
        self._function = function

    def answer(self, session: Session, call: Frame) -> Reply:
        """Answer a call. See ``Handler.answer``."""
        return self._function(session, call)


class Program(Protocol):
    """A set of procedures that the clients of a server can call.

    :ivar key: the number and the version of the program.
    :ivar handlers: the handlers of its procedures, by the procedures' numbers.
    """

    @property
    def key(self) -> ProgramKey:
        """The number and the version of the program."""

    @property
    def handlers(self) -> Mapping[int, Handler]:
        """The handlers of its procedures, by the procedures' numbers."""


@dataclass
class Limits:
    """The limits of a server, as ``virt-admin`` shows and sets them.

    Only ``max_clients`` has an effect. lockd has no pool of workers and no authentication, but stores the
    other numbers, as virtlockd does.

    :ivar max_clients: how many clients may be connected at the same time.
    :ivar max_anonymous_clients: how many of them may be unauthenticated.
    :ivar min_workers: the least size of the pool of workers.
    :ivar max_workers: the largest size of the pool of workers.
    :ivar priority_workers: the number of workers for calls that cannot block.
    """

    max_clients: int
    max_anonymous_clients: int
    min_workers: int = 0
    max_workers: int = 0
    priority_workers: int = 0


class Server(Service):
    """Accepts clients, and passes their calls to the handlers of its programs.

    :param name: the name of the server.
    :param reactor: serves the listening sockets and the clients.
    :param limits: the limits at the start.
    :param setting: the setting of virtlockd.conf for ``limits.max_clients``, for the log.
    :param payload_kept: how many bytes of a call's payload are kept; no procedure of its programs has longer
        arguments.
    :param on_end: is called with each session whose connection is being closed, except at the end of the
        daemon.
    :ivar name: the name of the server.
    :ivar limits: the limits in force. They may be changed at any time; ``update_accepting`` applies them.
    :ivar configured: the limits at the start, to tell which ones were changed at run time.
    :ivar payload_kept: see the parameter.
    :ivar sessions: the connected clients, by their numbers.
    :ivar next_client_id: the number of the next client.
    :ivar listeners: the listening sockets.
    """

    def __init__(
        self,
        name: str,
        reactor: Reactor,
        limits: Limits,
        *,
        setting: str,
        payload_kept: int,
        on_end: Callable[[Session], None],
    ) -> None:
        self.name = name
        self.limits = limits
        self.configured = replace(limits)
        self.payload_kept = payload_kept
        self.sessions: dict[int, Session] = {}
        self.next_client_id = 1
        self.listeners: list[socket.socket] = []
        self._reactor = reactor
        self._programs: set[ProgramKey] = set()
        self._handlers: dict[bytes, Handler] = {}
        self._on_end = on_end
        self._setting = setting
        self._full = Trouble(_logger)
        self._accepting = False

    def add_program(self, program: Program) -> None:
        """Let clients call the procedures of a program.

        :param program: the program.
        """
        self._programs.add(program.key)
        for procedure, handler in program.handlers.items():
            self._handlers[kind(*program.key, procedure)] = handler

    # Clients

    def listen(self, listener: socket.socket) -> None:
        """Accept clients on a listening socket, as long as the limits allow.

        If the socket cannot be watched, that is logged, and ``update_accepting`` tries again.

        :param listener: the socket; it listens already. ``hang_up`` closes it.
        """
        listener.setblocking(False)
        self.listeners.append(listener)
        self.update_accepting()

    def update_accepting(self) -> None:
        """Accept clients if there are fewer than ``limits.max_clients``, otherwise stop accepting.

        Clients that are not accepted stay in the queue of the listening socket.
        """
        self._set_accepting(accepting=self._has_room())

    def _has_room(self) -> bool:
        count, most = len(self.sessions), self.limits.max_clients
        if count < most:
            return True
        self._full.seen(
            "%s has %d clients, as many as it may have: further ones wait until one leaves; "
            "raise %s in virtlockd.conf and reload the daemon",
            self.name,
            count,
            self._setting,
        )
        return False

    def _set_accepting(self, *, accepting: bool) -> None:
        self._accepting = accepting
        events = READABLE if accepting else 0
        for listener in self.listeners:
            fd = listener.fileno()
            try:
                if self._reactor.watches(fd):
                    self._reactor.change(fd, events)
                else:
                    self._reactor.watch(fd, events, FunctionWatcher(self._on_connection))
            except OSError as error:
                _cannot_serve("new clients", error)

    def _on_connection(self, _ready: int) -> None:
        for listener in self.listeners:
            for _ in range(_ACCEPTED_PER_TURN):
                if not self._accepting:
                    return
                try:
                    connection, _ = listener.accept()
                except (BlockingIOError, ConnectionAbortedError):
                    break
                except OSError as error:
                    # ``update_accepting`` resumes: when a client leaves, and from the daemon's housekeeping.
                    _cannot_serve("further clients", error)
                    self._set_accepting(accepting=False)
                    break
                try:
                    connection.setblocking(False)
                    session = Session(self, self._reactor, connection, self.next_client_id)
                    self._admit(session)
                except OSError as error:
                    _cannot_serve("a client", error)
                    connection.close()
                except Exception:
                    if faults.allows():
                        _logger.exception("a client of %s could not be accepted", self.name)
                    connection.close()

    def _admit(self, session: Session) -> None:
        if session.peer_uid != os.geteuid():
            # Any client can register as any owner. So a process of another user could release this user's
            # locks.
            if _foreigners.allows():
                _logger.warning(
                    "user %d (pid %d) may not connect to the %s socket of user %d's daemon",
                    session.peer_uid,
                    session.peer_pid,
                    self.name,
                    os.geteuid(),
                )
            session.hang_up()
            return
        self.next_client_id += 1
        self.adopt(session)

    def adopt(self, session: Session) -> None:
        """Serve a session whose client is connected and accepted.

        :param session: the session, not started. Its connection is closed if this fails.
        :raises OSError: its connection cannot be watched (epoll_ctl(2)).
        """
        try:
            session.start()
        except BaseException:
            session.hang_up()
            raise
        self.sessions[session.id] = session
        _logger.debug("client %d of %s is pid %d", session.id, self.name, session.peer_pid)
        if not self._has_room():
            self._set_accepting(accepting=False)

    def ended(self, session: Session) -> None:
        """Forget a client whose connection is being closed. See ``Service.ended``."""
        del self.sessions[session.id]
        _logger.debug("client %d of %s is gone", session.id, self.name)
        self._on_end(session)
        if not self._accepting:
            self.update_accepting()

    def hang_up(self) -> None:
        """Close all listening sockets and connections at the end of the daemon.

        The process may live on after the daemon has ended: a thread that waits for a hung file server cannot
        be killed, and keeps all descriptors of the process open. No client and no other daemon may have to
        wait for that.
        """
        for listener in self.listeners:
            listener.close()
        for session in self.sessions.values():
            session.hang_up()

    # Calls

    def answer(self, session: Session, call: Frame) -> Reply:
        """Answer a frame. See ``Service.answer``."""
        # For a valid call, one look-up finds the handler; the fields of the header need not be decoded.
        handler = self._handlers.get(call.kind)
        if handler is not None and call.is_ok:
            return handler.answer(session, call)
        if call.type == FrameType.CALL:
            return refuse(session, call, rpc_error(self._error(call)))
        if call.type == FrameType.CALL_WITH_FDS:
            return self.answer(session, without_descriptors(call))
        return _answer_message(call)

    def fault(self, session: Session, call: Frame) -> bytes:
        """Log the exception that is being handled, and encode the error reply. See ``Service.fault``."""
        if faults.allows():
            _logger.exception("a call of %s, met a fault of the daemon", session.describe())
        return error_reply(call, internal_error("the daemon could not carry out the call; its log says why"))

    def _error(self, call: Frame) -> str:
        if (call.program, call.version) not in self._programs:
            return f"Cannot find program {signed(call.program)} version {signed(call.version)}"
        if not call.is_ok:
            return f"Unexpected message status {call.status}"
        return f"unknown procedure: {signed(call.procedure)}"


def _cannot_serve(whom: str, error: OSError) -> None:
    number = error.errno or 0
    remedy = _REMEDIES.get(number, "see accept(2) and epoll_ctl(2)")
    _out_of_resources.seen("%s cannot be served: %s; %s", whom, os.strerror(number), remedy)


def error_reply(call: Frame, error: ErrorReply) -> bytes:
    """Encode an error reply.

    :param call: the call that is answered.
    :param error: the error.
    :returns: the bytes of the reply.
    """
    return encode_reply(call, error.encode(), Status.ERROR)


def refuse(session: Session, call: Frame, error: ErrorReply) -> bytes:
    """Log an error as virtlockd does, and encode the reply. The number of log messages per second is limited.

    :param session: the client that sent the call.
    :param call: the call that is answered.
    :param error: the error.
    :returns: the bytes of the reply.
    """
    if _refusals.allows():
        _logger.error("%s, was refused: %s", session.describe(), error.message)
    return error_reply(call, error)


def _answer_message(message: Frame) -> bytes:
    is_ping = (message.program, message.version, message.procedure, message.type) == (
        keepalive.PROGRAM,
        keepalive.VERSION,
        keepalive.Procedure.PING,
        FrameType.MESSAGE,
    )
    return keepalive.PONG if is_ping else NO_REPLY
