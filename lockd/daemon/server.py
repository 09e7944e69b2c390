"""A server: a listening socket, the clients that came through it, and the programs that they may call.

A daemon has two, as virtlockd has: ``virtlockd`` for locks and ``admin`` for administration.
"""

import errno
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

from lockd.daemon.rate_limit import RateLimit
from lockd.daemon.reactor import READABLE, FunctionWatcher, Reactor
from lockd.daemon.session import NO_REPLY, Reply, Service, Session
from lockd.wire import keepalive
from lockd.wire.errors import ErrorReply, rpc_error, signed
from lockd.wire.frames import Frame, FrameType, Status, encode_reply, kind, without_descriptors

LOCK_SERVER: Final = "virtlockd"
ADMIN_SERVER: Final = "admin"
"""The servers' names, as virt-admin shows them."""

_ACCEPTED_PER_TURN: Final = 64
_OUT_OF_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

ProgramKey: TypeAlias = tuple[int, int]
"""Number and version."""

_REFUSALS_PER_SECOND: Final = 100

_logger = logging.getLogger(__name__)
_refusals = RateLimit(_logger, "refused calls", _REFUSALS_PER_SECOND)


class Handler:
    """Answers the calls of one procedure. A base class, so that compiled code calls it directly."""

    def answer(self, session: Session, call: Frame) -> Reply:
        """Answer a call.

        :param session: the client that made it.
        :param call: the call.
        :returns: the bytes of the reply, ``NO_REPLY``, or ``LATER`` where ``Session.finish`` sends them later.
        """
        raise NotImplementedError


class FunctionHandler(Handler):
    """Answers with a function.

    :param function: takes the client and the call, and returns the reply.
    """

    def __init__(self, function: Callable[[Session, Frame], Reply]) -> None:
        self._function = function

    def answer(self, session: Session, call: Frame) -> Reply:
        """Answer a call. See ``Handler.answer``."""
        return self._function(session, call)


class Program(Protocol):
    """The procedures that a server's clients can call.

    :ivar key: the program's number and version.
    :ivar handlers: what answers each procedure, by the procedure's number.
    """

    @property
    def key(self) -> ProgramKey:
        """The program's number and version."""

    @property
    def handlers(self) -> Mapping[int, Handler]:
        """What answers each procedure, by the procedure's number."""


@dataclass
class Limits:
    """What ``virt-admin`` shows and sets of a server.

    lockd has no pool of workers and no authentication; it keeps the numbers, as virtlockd does.
    """

    max_clients: int
    max_anonymous_clients: int
    min_workers: int = 0
    max_workers: int = 0
    priority_workers: int = 0


class Server(Service):
    """Accepts clients and hands their calls to programs.

    :ivar configured: the limits that nobody has changed at run time.
    :ivar sessions: the connected clients, by their numbers.
    :ivar payload_kept: bytes of a call's payload that any of the programs can have arguments in.
    """

    def __init__(
        self,
        name: str,
        reactor: Reactor,
        limits: Limits,
        *,
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
        self._accepting = False

    def add_program(self, program: Program) -> None:
        """Let clients call a program.

        :param program: the program.
        """
        self._programs.add(program.key)
        for procedure, handler in program.handlers.items():
            self._handlers[kind(*program.key, procedure)] = handler

    # Clients

    def listen(self, listener: socket.socket) -> None:
        """Accept clients on ``listener``, which listens already, as long as the limits allow."""
        listener.setblocking(False)
        self.listeners.append(listener)
        self._reactor.watch(
            listener.fileno(), READABLE if self._accepting else 0, FunctionWatcher(self._on_connection)
        )
        self.update_accepting()

    def update_accepting(self) -> None:
        """Accept, or stop accepting, as the limits say now. Those who wait stay in the socket's queue."""
        self._set_accepting(accepting=len(self.sessions) < self.limits.max_clients)

    def _set_accepting(self, *, accepting: bool) -> None:
        self._accepting = accepting
        for listener in self.listeners:
            self._reactor.change(listener.fileno(), READABLE if accepting else 0)

    def _on_connection(self, _ready: int) -> None:
        for listener in self.listeners:
            for _ in range(_ACCEPTED_PER_TURN):
                if not self._accepting:
                    return
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in _OUT_OF_DESCRIPTORS:
                        # Until a client leaves: its descriptor is the next one's.
                        _logger.error("no further clients can be accepted: %s", os.strerror(error.errno))
                        self._set_accepting(accepting=False)
                    break
                connection.setblocking(False)
                self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        session = Session(self, self._reactor, connection, self.next_client_id)
        if session.peer_uid != os.geteuid():
            # A lock is worth what its daemon's word is worth: nobody else's processes may end it.
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
        """Serve a client that is connected already."""
        self.sessions[session.id] = session
        _logger.debug("client %d of %s is pid %d", session.id, self.name, session.peer_pid)
        session.start()
        if len(self.sessions) >= self.limits.max_clients:
            self._set_accepting(accepting=False)

    def ended(self, session: Session) -> None:
        """Forget a client whose connection ends."""
        del self.sessions[session.id]
        _logger.debug("client %d of %s is gone", session.id, self.name)
        self._on_end(session)
        if not self._accepting:
            self.update_accepting()

    def hang_up(self) -> None:
        """End all connections at once, as the daemon ends.

        The process may go on for as long as a file server hangs: a thread that waits for one cannot be killed,
        and keeps every descriptor open. No client and no other daemon is to wait for that.
        """
        for listener in self.listeners:
            listener.close()
        for session in self.sessions.values():
            session.hang_up()

    # Calls

    def answer(self, session: Session, call: Frame) -> Reply:
        """Answer a frame. See ``Service.answer``."""
        # One look-up finds the handler of a well-formed call. Its header's numbers are not looked at.
        handler = self._handlers.get(call.kind)
        if handler is not None and call.is_ok:
            return handler.answer(session, call)
        if call.type == FrameType.CALL:
            return refuse(session, call, rpc_error(self._fault(call)))
        if call.type == FrameType.CALL_WITH_FDS:
            return self.answer(session, without_descriptors(call))
        return _answer_message(call)

    def _fault(self, call: Frame) -> str:
        if (call.program, call.version) not in self._programs:
            return f"Cannot find program {signed(call.program)} version {signed(call.version)}"
        if not call.is_ok:
            return f"Unexpected message status {call.status}"
        return f"unknown procedure: {signed(call.procedure)}"


def error_reply(call: Frame, error: ErrorReply) -> bytes:
    """Return the bytes of an ERROR reply."""
    return encode_reply(call, error.encode(), Status.ERROR)


def refuse(session: Session, call: Frame, error: ErrorReply) -> bytes:
    """Log an error as virtlockd does, and return the bytes of its reply."""
    if _refusals.allows():
        who = session.owner.describe() if session.owner else f"pid {session.peer_pid}"
        _logger.error("client %d, %s, was refused: %s", session.id, who, error.message)
    return error_reply(call, error)


def _answer_message(message: Frame) -> bytes:
    is_ping = (message.program, message.version, message.procedure, message.type) == (
        keepalive.PROGRAM,
        keepalive.VERSION,
        keepalive.Procedure.PING,
        FrameType.MESSAGE,
    )
    return keepalive.PONG if is_ping else NO_REPLY
