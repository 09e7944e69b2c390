"""The lock program: clients call it to register owners, and to acquire and release locks."""

import errno
import logging
import os
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Final, TypeAlias

from lockd.daemon import events
from lockd.daemon.counters import Counters
from lockd.daemon.identification import Unidentified
from lockd.daemon.locker import Continuation, Locker
from lockd.daemon.owners import Owners
from lockd.daemon.programs import function_names
from lockd.daemon.programs.explain import Explainer
from lockd.daemon.programs.refused import Refused
from lockd.daemon.programs.replies import lock_error_reply
from lockd.daemon.server import Handler, ProgramKey, error_reply, refuse
from lockd.daemon.session import LATER, Reply, Session
from lockd.daemon.tasks import Tasks
from lockd.locks.errors import Busy, LockError, NotHeld, NotOwner
from lockd.locks.table import LockTable
from lockd.wire import lock
from lockd.wire.errors import (
    ErrorDomain,
    operation_denied,
    operation_invalid,
    rpc_error,
    system_error,
    unsupported_flags,
)
from lockd.wire.frames import Frame, encode_success, success_template
from lockd.wire.lock import AcquireFlags, Procedure
from lockd.wire.xdr import DecodeError

_ACQUIRE_FLAGS: Final = int(AcquireFlags.SHARED | AcquireFlags.AUTOCREATE)
_SHARED: Final = int(AcquireFlags.SHARED)
_AUTOCREATE: Final = int(AcquireFlags.AUTOCREATE)
_FUNCTIONS: Final = function_names.LOCK

_ADVICE: Final = {
    errno.EMFILE: "; raise the limit of open files of the lock daemon (LimitNOFILE=)",
    errno.ENFILE: "; the host has too many open files (fs.file-max)",
    errno.ENOSYS: "; lockd needs Linux 5.3 or later (pidfd_open)",
    errno.EPERM: "; allow the lock daemon the system call pidfd_open (SystemCallFilter=)",
    errno.EACCES: "; allow the lock daemon the system call pidfd_open (SystemCallFilter=)",
}
"""What to do if an owner cannot be watched, by the reason."""

_RESTRICTED = operation_denied("lock manager connection has been restricted")
_UNREGISTERED = operation_invalid("lock owner details have not been registered")


_clock: Final = perf_counter_ns

_logger = logging.getLogger(__name__)

_Procedure: TypeAlias = Callable[[Session, bytes], Continuation | None]
"""Carries out one call. Returns None if that is done, otherwise the continuation, which has to be awaited."""


class LockProgram:
    """Answers the calls of the lock program.

    :param table: the lock table.
    :param locker: acquires and releases locks.
    :param owners: the registered owners.
    :param explain: names the holder of a lock in error messages.
    :param tasks: runs the continuations of calls that may block.
    :param counters: counts granted and refused acquires.
    :ivar tasks: see the parameter.
    :ivar key: the number and the version of the program.
    :ivar handlers: the handlers of its procedures, by the procedures' numbers.
    """

    key: Final[ProgramKey] = (lock.PROGRAM, lock.VERSION)

    def __init__(
        self,
        table: LockTable,
        locker: Locker,
        owners: Owners,
        explain: Explainer,
        tasks: Tasks,
        counters: Counters,
    ) -> None:
        self._table = table
        self._locker = locker
        self._owners = owners
        self._explain = explain
        self.tasks = tasks
        self._counters = counters
        procedures: dict[int, _Procedure] = {
            Procedure.REGISTER: self._register,
            Procedure.RESTRICT: self._restrict,
            Procedure.NEW: self._new,
            Procedure.CREATE_RESOURCE: self._create_resource,
            Procedure.DELETE_RESOURCE: self._delete_resource,
            Procedure.ACQUIRE_RESOURCE: self._acquire_resource,
            Procedure.RELEASE_RESOURCE: self._release_resource,
            Procedure.CREATE_LOCKSPACE: self._create_lockspace,
        }
        self.handlers: dict[int, Handler] = {
            number: _ProcedureHandler(self, number, procedure) for number, procedure in procedures.items()
        }

    def refuse(self, session: Session, call: Frame, error: Exception) -> bytes:
        """Log and count a refused call, and encode the reply.

        :param session: the client that sent the call.
        :param call: the call.
        :param error: why it was refused: a ``LockError``, ``Refused`` or ``DecodeError``.
        :returns: the bytes of the reply.
        """
        match error:
            case LockError():
                if isinstance(error, NotOwner) and session.owner is not None:
                    # virtlockd names the pid that the client has registered.
                    error = NotOwner(session.registered_pid)
                message = self._message(error)
                reply = lock_error_reply(error, message)
                if isinstance(error, NotHeld):
                    # libvirt releases each disk twice at a suspend, a save and a migration (measured). So this
                    # is answered as an error, as by virtlockd, and is none.
                    _logger.debug("client %d releases what nobody holds: %s", session.id, message)
                    return error_reply(call, reply)
                if call.procedure != Procedure.ACQUIRE_RESOURCE or session.owner is None:
                    return refuse(session, call, reply)
                if isinstance(error, Busy):
                    self._counters.busy += 1
                else:
                    self._counters.failed += 1
                lockspace, name, _ = lock.decode_resource(call.payload)
                events.refused(lockspace, name, message, session.owner)
                return error_reply(call, reply)
            case Refused(reply=reply):
                return refuse(session, call, reply)
        return refuse(session, call, rpc_error("Unable to decode message payload"))

    def _message(self, error: LockError) -> str:
        if isinstance(error, Busy):
            return self._explain.busy(error)
        return str(error)

    # The procedures

    def _register(self, session: Session, payload: bytes) -> None:
        owner, flags = lock.decode_register(payload)
        _check(session, Procedure.REGISTER, flags, registered=False)
        if owner.id == 0:
            raise Refused(_UNREGISTERED)
        try:
            self._owners.register(session, owner)
        except Unidentified as reason:
            raise Refused(operation_invalid(str(reason))) from None
        except OSError as error:
            # Without a pidfd, the owner could not be killed before its locks are released (Invariant 2).
            number = error.errno or 0
            message = (
                f"Unable to watch over owner {owner.pid}: {os.strerror(number)}{_ADVICE.get(number, '')}"
            )
            raise Refused(system_error(message, number, ErrorDomain.RPC)) from None

    def _restrict(self, session: Session, payload: bytes) -> None:
        _check(session, Procedure.RESTRICT, lock.decode_flags(payload))
        session.restricted = True

    def _new(self, session: Session, payload: bytes) -> Continuation | None:
        path, flags = lock.decode_lockspace(payload)
        _check(session, Procedure.NEW, flags)
        return self._locker.create_lockspace(path, new=True)

    def _create_lockspace(self, session: Session, payload: bytes) -> Continuation | None:
        path = lock.decode_create_lockspace(payload)
        if session.restricted:
            raise Refused(_RESTRICTED)
        # An empty path is the direct lockspace. It has no directory and always exists.
        return self._locker.create_lockspace(path) if path else None

    def _create_resource(self, session: Session, payload: bytes) -> Continuation | None:
        lockspace, name, flags = lock.decode_resource(payload)
        _check(session, Procedure.CREATE_RESOURCE, flags)
        return self._locker.create_file(lockspace, name)

    def _delete_resource(self, session: Session, payload: bytes) -> Continuation | None:
        lockspace, name, flags = lock.decode_resource(payload)
        _check(session, Procedure.DELETE_RESOURCE, flags)
        return self._locker.delete_file(lockspace, name)

    def _acquire_resource(self, session: Session, payload: bytes) -> Continuation | None:
        lockspace, name, flags = lock.decode_resource(payload)
        if flags & ~_ACQUIRE_FLAGS:
            raise Refused(unsupported_flags(flags & ~_ACQUIRE_FLAGS, _FUNCTIONS[Procedure.ACQUIRE_RESOURCE]))
        shared, autocreate = flags & _SHARED != 0, flags & _AUTOCREATE != 0
        began = _clock()
        rest = self._locker.acquire(lockspace, name, _owner_key(session), shared, autocreate, session.is_open)
        if rest is not None:
            return partial(self._counted, session, rest, began)
        self._count(_clock() - began)
        return None

    async def _counted(self, session: Session, rest: Continuation, began: int) -> None:
        await rest()
        _owner_key(session)  # an owner that has ended meanwhile has no lock
        self._count(_clock() - began)

    def _count(self, taken: int) -> None:
        self._counters.latencies[taken.bit_length()] += 1
        self._counters.latency_sum += taken

    def _release_resource(self, session: Session, payload: bytes) -> Continuation | None:
        lockspace, name, flags = lock.decode_resource(payload)
        if flags:
            raise Refused(unsupported_flags(flags, _FUNCTIONS[Procedure.RELEASE_RESOURCE]))
        return self._locker.release(lockspace, name, _owner_key(session))


class _ProcedureHandler(Handler):
    """Answers the calls of one procedure of the lock program."""

    def __init__(self, program: LockProgram, number: int, procedure: _Procedure) -> None:
        self._program = program
        self._procedure = procedure
        self._success = success_template(lock.PROGRAM, lock.VERSION, number)

    def answer(self, session: Session, call: Frame) -> Reply:
        """Answer a call. See ``Handler.answer``."""
        try:
            rest = self._procedure(session, call.payload)
        except (LockError, Refused, DecodeError) as error:
            return self._program.refuse(session, call, error)
        if rest is None:
            return encode_success(self._success, call)
        self._program.tasks.start(self._finish, session, call, rest)
        return LATER

    async def _finish(self, session: Session, call: Frame, rest: Continuation) -> None:
        try:
            reply = await self._reply(session, call, rest)
        except Exception:
            reply = session.fault(call)
        session.finish(reply)

    async def _reply(self, session: Session, call: Frame, rest: Continuation) -> bytes:
        try:
            await rest()
        except (LockError, Refused) as error:
            return self._program.refuse(session, call, error)
        return encode_success(self._success, call)


def _check(session: Session, procedure: Procedure, flags: int, *, registered: bool = True) -> None:
    """Check the flags and the state of a session, in virtlockd's order.

    :param registered: whether the procedure needs a registered owner.
    :raises Refused: a check failed.
    """
    if flags:
        raise Refused(unsupported_flags(flags, _FUNCTIONS[procedure]))
    if session.restricted:
        raise Refused(_RESTRICTED)
    if registered and session.owner is None:
        raise Refused(_UNREGISTERED)


def _owner_key(session: Session) -> int:
    """Return the key of the owner that a session acquires and releases for.

    :raises Refused: the session is restricted or has no owner, or the owner has ended.
    """
    owner = session.owner
    if owner is None or owner.ended or session.restricted:
        raise _not_allowed(session)
    return owner.key


def _not_allowed(session: Session) -> Refused:
    if session.restricted:
        return Refused(_RESTRICTED)
    if session.owner is None:
        return Refused(_UNREGISTERED)
    # Locks of an owner that has ended would never be released. And its pid may belong to a new owner with
    # other locks.
    return Refused(operation_invalid(f"owner process {session.registered_pid} has ended"))
