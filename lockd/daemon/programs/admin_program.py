"""The admin program: ``virt-admin`` calls it to show and change the servers, clients and log of the daemon.

The names, the order of the checks and the error texts are virtlockd's, as measured; ``virt-admin`` shows them
to its user.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeAlias

from lockd.daemon.lifetime import Lifetime
from lockd.daemon.log.log import Log
from lockd.daemon.log.settings import LogSettingError
from lockd.daemon.programs import function_names
from lockd.daemon.programs.account_names import AccountNames
from lockd.daemon.programs.refused import Refused
from lockd.daemon.reactor import Reactor
from lockd.daemon.server import FunctionHandler, ProgramKey, Server, refuse
from lockd.daemon.session import LATER, NO_REPLY, Reply, Session
from lockd.daemon.tasks import Tasks
from lockd.locks.table import LockTable
from lockd.wire import admin
from lockd.wire.admin import Arguments, Client, Parameter, ParameterType, Procedure, ShutdownFlags
from lockd.wire.errors import (
    ErrorDomain,
    internal_error,
    invalid_argument,
    no_client,
    no_server,
    operation_invalid,
    rpc_error,
    system_error,
    unsupported_argument,
    unsupported_flags,
)
from lockd.wire.frames import Frame, encode_reply
from lockd.wire.xdr import DecodeError

LIBVIRT_VERSION: Final = (9, 0, 0)
"""The version of libvirt whose daemon was measured for lockd. Its admin program is implemented here."""

_PRIORITY_WORKERS_MAX: Final = 1024
"""The largest number of priority workers that a client can set. lockd has no workers; it stores the number
for virtlockd, which starts a thread for each of them. With four billion, virtlockd would abort, and all locks
would be lost."""

_PRESERVE: Final = int(ShutdownFlags.PRESERVE)

_FUNCTIONS: Final = function_names.ADMIN

_logger = logging.getLogger(__name__)


_Rest: TypeAlias = Callable[[], Awaitable[bytes]]
"""Carries out the rest of a call, which has to wait, and returns the payload of the reply."""

_Answer: TypeAlias = Callable[[Session, Arguments], bytes | _Rest]
"""Carries out one call, and returns the payload of the reply, or what is left to do for it."""


class AdminProgram:
    """Answers the calls of the admin program.

    Only the user of the daemon can call it, through the admin socket.

    :param servers: all servers of the daemon, in the order in which virt-admin lists them.
    :param reactor: ends a connection, or the daemon, in the turn after the reply.
    :param log: the log of the daemon.
    :param lifetime: decides when the daemon ends.
    :param table: the lock table.
    :param tasks: runs calls that have to wait.
    :ivar key: the number and the version of the program.
    :ivar handlers: the handlers of its procedures, by the procedures' numbers.
    """

    key: Final[ProgramKey] = (admin.PROGRAM, admin.VERSION)

    def __init__(
        self,
        servers: Sequence[Server],
        reactor: Reactor,
        log: Log,
        lifetime: Lifetime,
        table: LockTable,
        tasks: Tasks,
    ) -> None:
        self._servers = servers
        self._reactor = reactor
        self._log = log
        self._lifetime = lifetime
        self._table = table
        self._tasks = tasks
        self._names = AccountNames()
        procedures: dict[int, _Answer] = {
            Procedure.CONNECT_OPEN: self._connect_open,
            Procedure.CONNECT_CLOSE: self._connect_close,
            Procedure.GET_LIB_VERSION: self._get_lib_version,
            Procedure.LIST_SERVERS: self._list_servers,
            Procedure.LOOKUP_SERVER: self._lookup_server,
            Procedure.GET_THREADPOOL_PARAMETERS: self._get_threadpool_parameters,
            Procedure.SET_THREADPOOL_PARAMETERS: self._set_threadpool_parameters,
            Procedure.LIST_CLIENTS: self._list_clients,
            Procedure.LOOKUP_CLIENT: self._lookup_client,
            Procedure.CLIENT_GET_INFO: self._client_get_info,
            Procedure.CLIENT_CLOSE: self._client_close,
            Procedure.GET_CLIENT_LIMITS: self._get_client_limits,
            Procedure.SET_CLIENT_LIMITS: self._set_client_limits,
            Procedure.GET_LOGGING_OUTPUTS: self._get_logging_outputs,
            Procedure.GET_LOGGING_FILTERS: self._get_logging_filters,
            Procedure.SET_LOGGING_OUTPUTS: self._set_logging_outputs,
            Procedure.SET_LOGGING_FILTERS: self._set_logging_filters,
            Procedure.UPDATE_TLS_FILES: self._update_tls_files,
            Procedure.SET_DAEMON_TIMEOUT: self._set_daemon_timeout,
            Procedure.DAEMON_SHUTDOWN: self._daemon_shutdown,
        }
        self.handlers = {
            number: FunctionHandler(partial(self._answer, procedure))
            for number, procedure in procedures.items()
        }

    def _answer(self, procedure: _Answer, session: Session, call: Frame) -> Reply:
        try:
            result = procedure(session, Arguments(call.payload))
        except Refused as refused:
            return refuse(session, call, refused.reply)
        except DecodeError:
            return refuse(session, call, rpc_error("Unable to decode message payload"))
        if not isinstance(result, bytes):
            self._tasks.start(_finish, session, call, result)
            return LATER
        # There is no reply if the client has closed its own connection with this call.
        return encode_reply(call, result) if session.is_open() else NO_REPLY

    # Connections and servers

    def _connect_open(self, _session: Session, arguments: Arguments) -> bytes:
        _no_flags(Procedure.CONNECT_OPEN, arguments.uint32())
        return b""

    def _connect_close(self, session: Session, _arguments: Arguments) -> bytes:
        # In the next turn, as the reply is sent at the end of this one.
        self._reactor.again(session.close)
        return b""

    def _get_lib_version(self, _session: Session, _arguments: Arguments) -> bytes:
        return admin.encode_version(*LIBVIRT_VERSION)

    def _list_servers(self, _session: Session, arguments: Arguments) -> bytes:
        wanted, flags = arguments.uint32(), arguments.uint32()
        _no_flags(Procedure.LIST_SERVERS, flags)
        names = [server.name for server in self._servers]
        return admin.encode_servers(names if wanted else (), len(names))

    def _lookup_server(self, _session: Session, arguments: Arguments) -> bytes:
        name = arguments.name()
        arguments.uint32()  # the flags, which virtlockd ignores
        return admin.encode_server(self._server(name).name)

    def _update_tls_files(self, _session: Session, arguments: Arguments) -> bytes:
        name, flags = arguments.name(), arguments.uint32()
        self._server(name)
        _no_flags(Procedure.UPDATE_TLS_FILES, flags)
        raise Refused(internal_error("no tls service found, unable to update tls files"))

    # Workers

    def _get_threadpool_parameters(self, _session: Session, arguments: Arguments) -> bytes:
        name, flags = arguments.name(), arguments.uint32()
        limits = self._server(name).limits
        _no_flags(Procedure.GET_THREADPOOL_PARAMETERS, flags)
        return _encode_numbers(
            minWorkers=limits.min_workers,
            maxWorkers=limits.max_workers,
            nWorkers=0,
            freeWorkers=0,
            prioWorkers=limits.priority_workers,
            jobQueueDepth=0,
        )

    def _set_threadpool_parameters(self, _session: Session, arguments: Arguments) -> bytes:
        name, parameters, flags = arguments.name(), arguments.parameters(), arguments.uint32()
        limits = self._matching_server(name).limits
        _check_names(parameters)
        _no_flags(Procedure.SET_THREADPOOL_PARAMETERS, flags)
        numbers = _numbers(parameters, ("maxWorkers", "minWorkers", "prioWorkers"))
        most = numbers.get("maxWorkers", limits.max_workers)
        least = numbers.get("minWorkers", limits.min_workers)
        priority = numbers.get("prioWorkers", limits.priority_workers)
        if least > most:
            raise _invalid("minWorkers cannot be larger than maxWorkers")
        if (most == 0) != (limits.max_workers == 0):
            raise _invalid("maxWorkers must not be switched from zero to non-zero and vice versa")
        if priority > _PRIORITY_WORKERS_MAX:
            raise _invalid(f"prioWorkers cannot be larger than {_PRIORITY_WORKERS_MAX}")
        limits.min_workers, limits.max_workers, limits.priority_workers = least, most, priority
        return b""

    # Clients

    def _list_clients(self, _session: Session, arguments: Arguments) -> bytes:
        name, wanted, flags = arguments.name(), arguments.uint32(), arguments.uint32()
        server = self._server(name)
        _no_flags(Procedure.LIST_CLIENTS, flags)
        count = len(server.sessions)
        if not wanted:
            return admin.encode_clients((), count)
        if count > admin.LIST_MAX:
            raise Refused(rpc_error(f"Too many clients '{count}' for limit '{admin.LIST_MAX}'"))
        return admin.encode_clients((_client(server, session) for session in server.sessions.values()), count)

    def _lookup_client(self, _session: Session, arguments: Arguments) -> bytes:
        name, number, flags = arguments.name(), arguments.uint64(), arguments.uint32()
        server = self._server(name)
        _no_flags(Procedure.LOOKUP_CLIENT, flags)
        return admin.encode_client(_client(server, _session_of(server, number)))

    def _client_get_info(self, _session: Session, arguments: Arguments) -> _Rest:
        client, flags = arguments.client(), arguments.uint32()
        session = self._matching_server(client.server).sessions.get(client.id)
        if session is None:
            message = f"no client with matching id '{client.id}' found"
            raise Refused(no_client(message, ErrorDomain.ADMIN))
        _no_flags(Procedure.CLIENT_GET_INFO, flags)
        return partial(self._info_of, session)

    async def _info_of(self, session: Session) -> bytes:
        user = await self._names.user(session.peer_uid)
        group = await self._names.group(session.peer_gid)
        return admin.encode_parameters(
            (
                Parameter("readonly", ParameterType.BOOLEAN, 0),
                Parameter("unix_user_id", ParameterType.INT, session.peer_uid),
                Parameter("unix_user_name", ParameterType.STRING, user),
                Parameter("unix_group_id", ParameterType.INT, session.peer_gid),
                Parameter("unix_group_name", ParameterType.STRING, group),
                Parameter("unix_process_id", ParameterType.INT, session.peer_pid),
            )
        )

    def _client_close(self, _session: Session, arguments: Arguments) -> bytes:
        client, flags = arguments.client(), arguments.uint32()
        session = _session_of(self._server(client.server), client.id)
        _no_flags(Procedure.CLIENT_CLOSE, flags)
        _logger.info("client %d of %s is disconnected", session.id, client.server)
        session.close()
        return b""

    def _get_client_limits(self, _session: Session, arguments: Arguments) -> bytes:
        name, flags = arguments.name(), arguments.uint32()
        server = self._server(name)
        _no_flags(Procedure.GET_CLIENT_LIMITS, flags)
        return _encode_numbers(
            nclients_max=server.limits.max_clients,
            nclients=len(server.sessions),
            nclients_unauth_max=server.limits.max_anonymous_clients,
            nclients_unauth=0,
        )

    def _set_client_limits(self, _session: Session, arguments: Arguments) -> bytes:
        name, parameters, flags = arguments.name(), arguments.parameters(), arguments.uint32()
        server = self._matching_server(name)
        limits = server.limits
        _check_names(parameters)
        _no_flags(Procedure.SET_CLIENT_LIMITS, flags)
        numbers = _numbers(parameters, ("nclients_max", "nclients_unauth_max"))
        most = numbers.get("nclients_max", limits.max_clients)
        anonymous = numbers.get("nclients_unauth_max", limits.max_anonymous_clients)
        if anonymous > most:
            message = (
                "The overall maximum number of clients waiting for authentication must not be less than "
                "the overall maximum number of clients"
            )
            raise Refused(invalid_argument(message))
        limits.max_clients, limits.max_anonymous_clients = most, anonymous
        server.update_accepting()
        return b""

    # The log

    def _get_logging_outputs(self, _session: Session, arguments: Arguments) -> bytes:
        _no_flags(Procedure.GET_LOGGING_OUTPUTS, arguments.uint32())
        outputs = self._log.outputs
        return admin.encode_outputs(" ".join(map(str, outputs)), len(outputs))

    def _get_logging_filters(self, _session: Session, arguments: Arguments) -> bytes:
        _no_flags(Procedure.GET_LOGGING_FILTERS, arguments.uint32())
        filters = self._log.filters
        # A space follows each filter, the last one too, as in virtlockd's reply.
        return admin.encode_filters("".join(f"{item} " for item in filters) or None, len(filters))

    def _set_logging_outputs(self, _session: Session, arguments: Arguments) -> bytes:
        text, flags = arguments.text(), arguments.uint32()
        _no_flags(Procedure.SET_LOGGING_OUTPUTS, flags)
        try:
            self._log.set_outputs(text)
        except LogSettingError as error:
            raise _log_setting_refused(error) from None
        return b""

    def _set_logging_filters(self, _session: Session, arguments: Arguments) -> bytes:
        text, flags = arguments.text(), arguments.uint32()
        _no_flags(Procedure.SET_LOGGING_FILTERS, flags)
        try:
            self._log.set_filters(text)
        except LogSettingError as error:
            raise _log_setting_refused(error) from None
        return b""

    # The daemon

    def _set_daemon_timeout(self, _session: Session, arguments: Arguments) -> bytes:
        timeout, flags = arguments.uint32(), arguments.uint32()
        _no_flags(Procedure.SET_DAEMON_TIMEOUT, flags)
        self._lifetime.timeout = timeout or None
        _logger.info("the daemon ends after %d seconds without clients and locks; 0 means never", timeout)
        return b""

    def _daemon_shutdown(self, _session: Session, arguments: Arguments) -> bytes:
        flags = arguments.uint32()
        _no_flags(Procedure.DAEMON_SHUTDOWN, flags & ~_PRESERVE)
        held = len(self._table)
        if flags & _PRESERVE and held:
            message = f"{held} locks are held, and would end with the daemon: nothing can preserve them"
            raise Refused(operation_invalid(message))
        _logger.info("an administrator ends the daemon")
        # In the next turn, as the reply is sent at the end of this one.
        self._reactor.again(self._lifetime.stop)
        return b""

    # Servers by their names

    def _server(self, name: str) -> Server:
        """Return the server with a name.

        :raises Refused: there is none.
        """
        for server in self._servers:
            if server.name == name:
                return server
        raise Refused(no_server(f"No server named '{name}'", ErrorDomain.RPC))

    def _matching_server(self, name: str) -> Server:
        """Return the server with a name.

        In some procedures, virtlockd returns another error than that of ``_server`` if there is no such
        server.

        :raises Refused: there is none. The error is that of these procedures.
        """
        try:
            return self._server(name)
        except Refused:
            message = f"no server with matching name '{name}' found"
            raise Refused(no_server(message, ErrorDomain.ADMIN)) from None


async def _finish(session: Session, call: Frame, rest: _Rest) -> None:
    try:
        reply = encode_reply(call, await rest())
    except Exception:
        reply = session.fault(call)
    session.finish(reply)


def _session_of(server: Server, number: int) -> Session:
    session = server.sessions.get(number)
    if session is None:
        raise Refused(no_client(f"No client with matching ID '{number}'", ErrorDomain.RPC))
    return session


def _client(server: Server, session: Session) -> Client:
    return Client(server.name, session.id, session.connected_at)


def _encode_numbers(**numbers: int) -> bytes:
    return admin.encode_parameters(
        Parameter(name, ParameterType.UINT, value) for name, value in numbers.items()
    )


# The checks of virtlockd, in its order: flags are checked after names, and parameters in the order of their
# names.


def _no_flags(procedure: Procedure, flags: int) -> None:
    if flags:
        raise Refused(unsupported_flags(flags, _FUNCTIONS[procedure], ErrorDomain.ADMIN))


def _check_names(parameters: Iterable[Parameter]) -> None:
    for parameter in parameters:
        if len(parameter.name) > admin.PARAMETER_NAME_MAX:
            message = f"parameter {parameter.name} too big for destination"
            raise Refused(internal_error(message, ErrorDomain.NONE))


def _numbers(parameters: Iterable[Parameter], known: Iterable[str]) -> dict[str, int]:
    """Return the values of parameters that are unsigned numbers, by the parameters' names.

    :param known: the names that are allowed.
    :raises Refused: a name is not allowed or occurs twice, or a value has another type.
    """
    numbers: dict[str, int] = {}
    for name, type_, value in sorted(parameters, key=lambda parameter: parameter.name):
        if name not in known:
            raise Refused(unsupported_argument(f"parameter '{name}' not supported"))
        if name in numbers:
            raise _invalid(f"parameter '{name}' occurs multiple times")
        if type_ is not ParameterType.UINT:
            raise _invalid(f"invalid type '{type_.name.lower()}' for parameter '{name}', expected 'uint'")
        numbers[name] = int(value)
    return numbers


def _invalid(message: str) -> Refused:
    return Refused(invalid_argument(message, ErrorDomain.NONE))


def _log_setting_refused(error: LogSettingError) -> Refused:
    if error.errno is None:
        return _invalid(str(error))
    return Refused(system_error(str(error), error.errno, ErrorDomain.NONE))
