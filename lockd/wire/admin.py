"""The admin program: what ``virt-admin`` asks of a daemon's servers, clients and log.

It is called a few times a day, so its arguments and results are xdrlib3's work.
"""

from collections.abc import Callable, Iterable
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from lockd.wire.xdr import DecodeError, Decoder, Encoder

PROGRAM: Final = 0x06900690
VERSION: Final = 1
STRING_MAX: Final = 4194304
LIST_MAX: Final = 16384
"""Servers or clients in one reply, at the most."""

PARAMETERS_MAX: Final = 32
PARAMETER_NAME_MAX: Final = 79
"""Bytes of a parameter's name, at the most. A longer one can be sent, but libvirt has no room to keep it."""

ARGUMENTS_MAX: Final = STRING_MAX + 65536
"""Bytes of the largest arguments of a call that somebody can mean: the log's outputs, say, and some more."""

TRANSPORT_UNIX: Final = 0


class Procedure(IntEnum):
    """What can be asked of the admin program."""

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
    """How a daemon is shut down."""

    PRESERVE = 1


class ParameterType(IntEnum):
    """What a typed parameter's value is (virTypedParameterType)."""

    INT = 1
    UINT = 2
    LLONG = 3
    ULLONG = 4
    DOUBLE = 5
    BOOLEAN = 6
    STRING = 7


class Parameter(NamedTuple):
    """A named value that says its type."""

    name: str
    type: ParameterType
    value: int | float | str


class Client(NamedTuple):
    """A connection, as the program speaks of it.

    :ivar timestamp: when it was made, in seconds since the epoch.
    """

    server: str
    id: int
    timestamp: int
    transport: int = TRANSPORT_UNIX


class Arguments(Decoder):
    """Takes the arguments off a call's payload."""

    def name(self) -> str:
        """Take a name, of a server for example."""
        return self.string(STRING_MAX)

    def text(self) -> str:
        """Take a string that may be absent, which means the same as an empty one.

        libvirt takes any number but 0 to say that it is there.
        """
        return self.string(STRING_MAX) if self.uint32() else ""

    def client(self) -> Client:
        """Take a client."""
        return Client(self.name(), self.uint64(), self.int64(), self.uint32())

    def parameters(self) -> list[Parameter]:
        """Take typed parameters."""
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
    """Return the result of GET_LIB_VERSION."""
    encoder = Encoder()
    encoder.uint64(major * 1_000_000 + minor * 1_000 + micro)
    return encoder.payload()


def encode_server(name: str) -> bytes:
    """Return the result of LOOKUP_SERVER."""
    encoder = Encoder()
    encoder.string(name)
    return encoder.payload()


def encode_servers(names: Iterable[str], count: int) -> bytes:
    """Return the result of LIST_SERVERS: ``names`` where they were asked for, and how many there are."""
    encoder = Encoder()
    listed = list(names)
    encoder.uint32(len(listed))
    for name in listed:
        encoder.string(name)
    encoder.uint32(count)
    return encoder.payload()


def encode_client(client: Client) -> bytes:
    """Return the result of LOOKUP_CLIENT."""
    encoder = Encoder()
    _put_client(encoder, client)
    return encoder.payload()


def encode_clients(clients: Iterable[Client], count: int) -> bytes:
    """Return the result of LIST_CLIENTS: ``clients`` where they were asked for, and how many there are."""
    encoder = Encoder()
    listed = list(clients)
    encoder.uint32(len(listed))
    for client in listed:
        _put_client(encoder, client)
    encoder.uint32(count)
    return encoder.payload()


def _put_client(encoder: Encoder, client: Client) -> None:
    encoder.string(client.server)
    encoder.uint64(client.id)
    encoder.int64(client.timestamp)
    encoder.uint32(client.transport)


def encode_parameters(parameters: Iterable[Parameter]) -> bytes:
    """Return the result of the procedures that return typed parameters."""
    encoder = Encoder()
    put: dict[ParameterType, Callable[..., None]] = {
        ParameterType.INT: encoder.int32,
        ParameterType.UINT: encoder.uint32,
        ParameterType.LLONG: encoder.int64,
        ParameterType.ULLONG: encoder.uint64,
        ParameterType.DOUBLE: encoder.double,
        ParameterType.BOOLEAN: encoder.int32,
        ParameterType.STRING: encoder.string,
    }
    listed = list(parameters)
    encoder.uint32(len(listed))
    for parameter in listed:
        encoder.string(parameter.name)
        encoder.int32(parameter.type)
        put[parameter.type](parameter.value)
    return encoder.payload()


def encode_outputs(outputs: str, count: int) -> bytes:
    """Return the result of GET_LOGGING_OUTPUTS."""
    encoder = Encoder()
    encoder.string(outputs)
    encoder.uint32(count)
    return encoder.payload()


def encode_filters(filters: str | None, count: int) -> bytes:
    """Return the result of GET_LOGGING_FILTERS; None where there are none."""
    encoder = Encoder()
    encoder.optional_string(filters)
    encoder.uint32(count)
    return encoder.payload()
