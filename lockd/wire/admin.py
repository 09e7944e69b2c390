"""The admin program: ``virt-admin`` calls it to read and change a daemon's servers, clients and log.

It is called a few times a day, so speed does not matter: xdrlib3 encodes and decodes its values.
"""

from collections.abc import Callable, Iterable
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from lockd.wire.xdr import DecodeError, Decoder, Encoder

PROGRAM: Final = 0x06900690
VERSION: Final = 1
STRING_MAX: Final = 4194304
"""Maximum length of a string, in bytes."""

LIST_MAX: Final = 16384
"""Maximum number of servers or clients in one reply."""

PARAMETERS_MAX: Final = 32
"""Maximum number of typed parameters in one call."""

PARAMETER_NAME_MAX: Final = 79
"""Maximum length of a parameter's name, in bytes. The protocol can carry longer names, but libvirt has no
room to store them."""

ARGUMENTS_MAX: Final = STRING_MAX + 65536
"""Maximum size of the arguments of a useful call, in bytes: one string of the maximum length, for
example the log's outputs, and 64 KiB for everything else."""

TRANSPORT_UNIX: Final = 0
"""The number for a Unix socket (virClientTransport)."""


class Procedure(IntEnum):
    """The procedures of the admin program, by libvirt's numbers."""

    CONNECT_OPEN = 1
    CONNECT_CLOSE = 2
    GET_LIB_VERSION = 3
    LIST_SERVERS = 4
    LOOKUP_SERVER = 5
    GET_THREADPOOL_PARAMETERS = 6
    SET_THREADPOOL_PARAMETERS = 7
    LIST_CLIENTS = 8
    LOOKUP_CLIENT = 9
    CLIENT_GET_INFO = 10
    CLIENT_CLOSE = 11
    GET_CLIENT_LIMITS = 12
    SET_CLIENT_LIMITS = 13
    GET_LOGGING_OUTPUTS = 14
    GET_LOGGING_FILTERS = 15
    SET_LOGGING_OUTPUTS = 16
    SET_LOGGING_FILTERS = 17
    UPDATE_TLS_FILES = 18
    SET_DAEMON_TIMEOUT = 19
    DAEMON_SHUTDOWN = 20


class ShutdownFlags(IntFlag):
    """Flags of DAEMON_SHUTDOWN."""

    PRESERVE = 1


class ParameterType(IntEnum):
    """The type of a typed parameter's value (virTypedParameterType)."""

    INT = 1
    UINT = 2
    LLONG = 3
    ULLONG = 4
    DOUBLE = 5
    BOOLEAN = 6
    STRING = 7


class Parameter(NamedTuple):
    """A typed parameter: a name, a type, and a value of that type."""

    name: str
    type: ParameterType
    value: int | float | str


class Client(NamedTuple):
    """A connection to a server of the daemon.

    :ivar server: the name of the server.
    :ivar id: the server's number for the connection.
    :ivar timestamp: when the client connected, in seconds since the epoch.
    :ivar transport: the kind of connection; ``TRANSPORT_UNIX`` for a Unix socket.
    """

    server: str
    id: int
    timestamp: int
    transport: int = TRANSPORT_UNIX


class Arguments(Decoder):
    """Decodes the arguments of a call, one after the other. See ``Decoder``."""

    def name(self) -> str:
        """Take a name, for example that of a server."""
        return self.string(STRING_MAX)

    def text(self) -> str:
        """Take a string that may be absent. An absent string means the same as an empty one.

        libvirt reads any number except 0 as "the string is present".
        """
        return self.string(STRING_MAX) if self.uint32() else ""

    def client(self) -> Client:
        """Take the description of a client."""
        return Client(self.name(), self.uint64(), self.int64(), self.uint32())

    def parameters(self) -> list[Parameter]:
        """Take a list of typed parameters."""
        return self.array(PARAMETERS_MAX, self._parameter)

    def _parameter(self) -> Parameter:
        name, number = self.name(), self.int32()
        takers: dict[int, Callable[[], int | float | str]] = {
            ParameterType.INT: self.int32,
            ParameterType.UINT: self.uint32,
            ParameterType.LLONG: self.int64,
            ParameterType.ULLONG: self.uint64,
            ParameterType.DOUBLE: self.double,
            ParameterType.BOOLEAN: self.int32,
            ParameterType.STRING: self.name,
        }
        if number not in takers:
            raise DecodeError(f"a parameter of type {number}")
        return Parameter(name, ParameterType(number), takers[number]())


def encode_version(major: int, minor: int, micro: int) -> bytes:
    """Return the result of GET_LIB_VERSION.

    :param major: the first part of libvirt's version.
    :param minor: the second part.
    :param micro: the third part.
    :returns: the payload of the reply.
    """
    encoder = Encoder()
    encoder.uint64(major * 1_000_000 + minor * 1_000 + micro)
    return encoder.payload()


def encode_server(name: str) -> bytes:
    """Return the result of LOOKUP_SERVER.

    :param name: the name of the server.
    :returns: the payload of the reply.
    """
    encoder = Encoder()
    encoder.text(name)
    return encoder.payload()


def encode_servers(names: Iterable[str], count: int) -> bytes:
    """Return the result of LIST_SERVERS.

    :param names: the names of the servers; empty if the caller asks only for their number.
    :param count: the number of servers.
    :returns: the payload of the reply.
    """
    encoder = Encoder()
    listed = list(names)
    encoder.uint32(len(listed))
    for name in listed:
        encoder.text(name)
    encoder.uint32(count)
    return encoder.payload()


def encode_client(client: Client) -> bytes:
    """Return the result of LOOKUP_CLIENT.

    :param client: the client.
    :returns: the payload of the reply.
    """
    encoder = Encoder()
    _put_client(encoder, client)
    return encoder.payload()


def encode_clients(clients: Iterable[Client], count: int) -> bytes:
    """Return the result of LIST_CLIENTS.

    :param clients: the clients of a server; empty if the caller asks only for their number.
    :param count: the number of clients.
    :returns: the payload of the reply.
    """
    encoder = Encoder()
    listed = list(clients)
    encoder.uint32(len(listed))
    for client in listed:
        _put_client(encoder, client)
    encoder.uint32(count)
    return encoder.payload()


def _put_client(encoder: Encoder, client: Client) -> None:
    encoder.text(client.server)
    encoder.uint64(client.id)
    encoder.int64(client.timestamp)
    encoder.uint32(client.transport)


def encode_parameters(parameters: Iterable[Parameter]) -> bytes:
    """Return the result of a procedure that returns typed parameters.

    :param parameters: the parameters.
    :returns: the payload of the reply.
    """
    encoder = Encoder()
    put: dict[ParameterType, Callable[..., None]] = {
        ParameterType.INT: encoder.int32,
        ParameterType.UINT: encoder.uint32,
        ParameterType.LLONG: encoder.int64,
        ParameterType.ULLONG: encoder.uint64,
        ParameterType.DOUBLE: encoder.double,
        ParameterType.BOOLEAN: encoder.int32,
        ParameterType.STRING: encoder.text,
    }
    listed = list(parameters)
    encoder.uint32(len(listed))
    for parameter in listed:
        encoder.text(parameter.name)
        encoder.int32(parameter.type)
        put[parameter.type](parameter.value)
    return encoder.payload()


def encode_outputs(outputs: str, count: int) -> bytes:
    """Return the result of GET_LOGGING_OUTPUTS.

    :param outputs: the outputs, separated by spaces.
    :param count: the number of outputs.
    :returns: the payload of the reply.
    """
    encoder = Encoder()
    encoder.text(outputs)
    encoder.uint32(count)
    return encoder.payload()


def encode_filters(filters: str | None, count: int) -> bytes:
    """Return the result of GET_LOGGING_FILTERS.

    :param filters: the filters, each followed by a space; None if there are none.
    :param count: the number of filters.
    :returns: the payload of the reply.
    """
    encoder = Encoder()
    encoder.optional_text(filters)
    encoder.uint32(count)
    return encoder.payload()
