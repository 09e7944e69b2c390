"""Makes random frames: valid calls with interesting arguments, and such calls with mistakes."""

import json
from collections.abc import Callable
from random import Random
from struct import pack, unpack_from
from typing import Any, NamedTuple
from uuid import UUID

from lockd.wire import admin, keepalive, lock, status
from lockd.wire.admin import ParameterType
from lockd.wire.frames import HEADER, LENGTH_MAX, LENGTH_MIN, FrameType, encode
from lockd.wire.xdr import DecodeError, Encoder
from tests.differential.pair import TREE
from tests.fuzz import words

_Maker = Callable[[], bytes]


class Fuzzed(NamedTuple):
    """A frame to send.

    :ivar data: its bytes.
    :ivar leads_on: whether the daemon has to answer the frames behind it: it finds this frame's end, and does not
        close the connection for it.
    """

    data: bytes
    leads_on: bool = True


class Frames:
    """Makes frames that the random numbers determine.

    :ivar owner_pids: the pids that REGISTER gets; pids of processes may be added.
    :ivar clients: how many clients there have been: numbers of clients in calls of the admin program are up to this.
    """

    def __init__(self, random: Random) -> None:
        self.owner_pids = list(words.OWNER_PIDS)
        self.clients = 1
        self._random = random
        self._serial = 0
        self._of_lock_program = _Choice(
            random,
            {
                self.register: 8,
                self._restrict: 0.1,
                self._new: 2,
                self._create_lockspace: 4,
                self._create_resource: 5,
                self._delete_resource: 5,
                self._acquire: 36,
                self._release: 30,
                self._random_payload: 2,
                self._keepalive: 3,
            },
        )
        self._of_admin_programs = _Choice(
            random,
            {
                self._status_locks: 3,
                self._status_daemon: 4,
                self._status_release: 20,
                self._status_find: 14,
                self._status_document: 6,
                self._admin_without_arguments: 4,
                self._admin_about_server: 10,
                self._admin_about_client: 8,
                self._admin_with_parameters: 12,
                self._admin_log: 3,
                self._admin_of_daemon: 0.1,
                self._random_payload: 2,
                self._keepalive: 3,
            },
        )

    def frame(self, *, to_admin: bool) -> Fuzzed:
        """Make a frame for the admin socket or the lock socket; some have mistakes."""
        # A program that the socket does not serve has to be refused.
        makers = (
            self._of_admin_programs if to_admin ^ (self._random.random() < 0.01) else self._of_lock_program
        )
        data = makers.draw()()
        if self._random.random() < 0.25:
            return self._with_mistakes(data)
        return Fuzzed(data, leads_on=not closes_own_connection(data))

    # The lock program

    def register(self, pid: int | None = None) -> bytes:
        """Make a call that registers an owner."""
        random = self._random
        encoder = Encoder()
        encoder.opaque(UUID(int=random.getrandbits(128)).bytes)
        payload = (
            encoder.payload()
            + self._string(self._text())
            + pack(">I", random.choice((1, 1, 1, 0, 2**32 - 1)))
            + pack(">I", self._owner_pid() if pid is None else pid)
            + pack(">I", self._flags())
        )
        return self._call(lock.PROGRAM, lock.Procedure.REGISTER, payload)

    def _owner_pid(self) -> int:
        # Often the same, so that many releases are of what their owner holds.
        return self.owner_pids[0] if self._random.random() < 0.6 else self._random.choice(self.owner_pids)

    def _restrict(self) -> bytes:
        return self._call(lock.PROGRAM, lock.Procedure.RESTRICT, pack(">I", self._flags()))

    def _new(self) -> bytes:
        return self._call(
            lock.PROGRAM, lock.Procedure.NEW, self._string(self._lockspace()) + pack(">I", self._flags())
        )

    def _create_lockspace(self) -> bytes:
        return self._call(lock.PROGRAM, lock.Procedure.CREATE_LOCKSPACE, self._string(self._lockspace()))

    def _create_resource(self) -> bytes:
        return self._on_resource(lock.Procedure.CREATE_RESOURCE, self._flags())

    def _delete_resource(self) -> bytes:
        return self._on_resource(lock.Procedure.DELETE_RESOURCE, self._flags())

    def _acquire(self) -> bytes:
        flags = self._random.choice((0, 1, 2, 2, 2, 3)) | self._flags()
        return self._on_resource(lock.Procedure.ACQUIRE_RESOURCE, flags)

    def _release(self) -> bytes:
        return self._on_resource(lock.Procedure.RELEASE_RESOURCE, self._flags())

    def _on_resource(self, procedure: int, flags: int) -> bytes:
        lockspace, name = self._resource()
        payload = self._string(lockspace) + self._string(name) + pack(">I", flags)
        return self._call(lock.PROGRAM, procedure, payload)

    def _keepalive(self) -> bytes:
        procedure = self._random.choice((keepalive.Procedure.PING, keepalive.Procedure.PONG, 0, 3))
        return encode(keepalive.PROGRAM, keepalive.VERSION, procedure, FrameType.MESSAGE, 0)

    def _random_payload(self) -> bytes:
        random = self._random
        program = random.choice((lock.PROGRAM, admin.PROGRAM, status.PROGRAM, keepalive.PROGRAM))
        procedure = random.choice((*range(10), *range(12, 19)))
        return self._call(program, procedure, random.randbytes(random.choice((0, 1, 3, 4, 8, 28, 100))))

    # The status program

    def _status_locks(self) -> bytes:
        random = self._random
        places: tuple[Any, ...] = (*words.LARGE_NUMBERS, -1, [1, 1], [0, 1 << 63], [1, -1], [0, 0, 0])
        question = {"after": random.choice(places)}
        if random.random() < 0.2:
            return self._ask(status.Procedure.LOCKSPACES, question)
        return self._ask(status.Procedure.LOCKS, question | random.choice(({}, {"owners": "apart"})))

    def _status_daemon(self) -> bytes:
        return self._ask(status.Procedure.DAEMON, {})

    def _status_release(self) -> bytes:
        return self._ask(status.Procedure.RELEASE, self._named())

    def _status_find(self) -> bytes:
        random = self._random
        if random.random() < 0.6:
            return self._ask(status.Procedure.FIND, self._named())
        document = {"device": random.choice(words.LARGE_NUMBERS), "inode": random.choice(words.LARGE_NUMBERS)}
        return self._ask(status.Procedure.FIND, document)

    def _status_document(self) -> bytes:
        document = self._random.choice(words.DOCUMENTS)
        return self._call(status.PROGRAM, self._random.choice(list(status.Procedure)), self._string(document))

    def _named(self) -> dict[str, Any]:
        lockspace, name = (part.decode(errors="surrogateescape") for part in self._resource())
        chance = self._random.random()
        if chance < 0.2:
            name = self._random.choice(words.JSON_TEXTS)
        elif chance < 0.25:
            lockspace = self._random.choice(words.JSON_TEXTS)
        return {"lockspace": lockspace, "resource": name}

    def _ask(self, procedure: int, document: dict[str, Any]) -> bytes:
        random = self._random
        if document and random.random() < 0.1:
            document[random.choice(list(document))] = random.choice(words.JSON_VALUES)
        if random.random() < 0.03:
            document.pop(next(iter(document), ""), None)
        data = json.dumps(document, separators=(",", ":")).encode()
        if random.random() < 0.03:
            # The same keys twice.
            data = data[:-1] + b"," + data[1:]
        return self._call(status.PROGRAM, procedure, self._string(data))

    # The admin program

    def _admin_without_arguments(self) -> bytes:
        """CONNECT_OPEN, CONNECT_CLOSE, GET_LIB_VERSION, LIST_SERVERS."""
        random = self._random
        procedure = random.choice((1, 1, 2, 3, 4, 4))
        payload = pack(">I", random.choice((0, 1))) if procedure == 4 else b""
        return self._call(admin.PROGRAM, procedure, payload + pack(">I", self._flags()))

    def _admin_about_server(self) -> bytes:
        """LOOKUP_SERVER, GET_THREADPOOL_PARAMETERS, LIST_CLIENTS, GET_CLIENT_LIMITS, UPDATE_TLS_FILES."""
        random = self._random
        procedure = random.choice((5, 6, 8, 12, 18))
        payload = self._string(self._server())
        if procedure == 8:
            payload += pack(">I", random.choice((0, 1)))
        return self._call(admin.PROGRAM, procedure, payload + pack(">I", self._flags()))

    def _admin_about_client(self) -> bytes:
        """LOOKUP_CLIENT, CLIENT_GET_INFO, CLIENT_CLOSE."""
        random = self._random
        procedure = random.choice((9, 10, 10, 11))
        number = (
            random.choice(words.LARGE_NUMBERS) if random.random() < 0.2 else random.randint(1, self.clients)
        )
        payload = self._string(self._server()) + pack(">Q", number)
        if procedure != 9:
            payload += pack(">QI", random.choice(words.LARGE_NUMBERS), random.choice(words.NUMBERS))
        return self._call(admin.PROGRAM, procedure, payload + pack(">I", self._flags()))

    def _admin_with_parameters(self) -> bytes:
        """SET_THREADPOOL_PARAMETERS, SET_CLIENT_LIMITS."""
        random = self._random
        procedure = random.choice((7, 13))
        number = random.choice((0, 1, 1, 2, 2, 3, 32, 33))
        announced = number if random.random() < 0.95 else random.choice(words.NUMBERS)
        payload = self._string(self._server()) + pack(">I", announced)
        payload += b"".join(self._parameter() for _ in range(number))
        return self._call(admin.PROGRAM, procedure, payload + pack(">I", self._flags()))

    def _parameter(self) -> bytes:
        random = self._random
        name = random.choice(words.PARAMETERS).encode() if random.random() < 0.9 else self._text()
        kind = ParameterType.UINT if random.random() < 0.8 else random.choice((*range(9), 2**31, 2**32 - 1))
        value = pack(">I", random.choice(words.NUMBERS))
        if kind in (ParameterType.LLONG, ParameterType.ULLONG, ParameterType.DOUBLE):
            value = pack(">Q", random.choice(words.LARGE_NUMBERS))
        elif kind == ParameterType.STRING:
            value = self._string(self._text())
        return self._string(name) + pack(">I", kind) + value

    def _admin_log(self) -> bytes:
        """GET_LOGGING_OUTPUTS, GET_LOGGING_FILTERS, SET_LOGGING_OUTPUTS, SET_LOGGING_FILTERS."""
        random = self._random
        procedure = random.choice((14, 15, 16, 16, 17, 17))
        payload = b""
        if procedure >= 16:
            text = random.choice(words.LOG_OUTPUTS if procedure == 16 else words.LOG_FILTERS).encode()
            text = text if random.random() < 0.95 else self._text()
            present = random.choice((1, 1, 1, 1, 0, 2, 2**32 - 1))
            payload = pack(">I", present) + (self._string(text) if present else b"")
        return self._call(admin.PROGRAM, procedure, payload + pack(">I", self._flags()))

    def _admin_of_daemon(self) -> bytes:
        """SET_DAEMON_TIMEOUT, DAEMON_SHUTDOWN."""
        random = self._random
        if random.random() < 0.7:
            payload = pack(">II", random.choice(words.NUMBERS), self._flags())
            return self._call(admin.PROGRAM, admin.Procedure.SET_DAEMON_TIMEOUT, payload)
        return self._call(
            admin.PROGRAM, admin.Procedure.DAEMON_SHUTDOWN, pack(">I", random.choice((0, 1, 1, 2)))
        )

    # Arguments

    def _call(self, program: int, procedure: int, payload: bytes) -> bytes:
        self._serial += 1
        return encode(program, 1, procedure, FrameType.CALL, self._serial, 0, payload)

    def _flags(self) -> int:
        return self._random.choice((1, 4, 8, 2**31, 2**32 - 1)) if self._random.random() < 0.02 else 0

    def _text(self) -> bytes:
        # Long texts are rare, as they take long.
        return self._random.choice(words.TEXTS if self._random.random() < 0.99 else words.LONG_TEXTS)

    def _server(self) -> bytes:
        return self._random.choice(words.SERVERS).encode() if self._random.random() < 0.95 else self._text()

    def _lockspace(self) -> bytes:
        chance = self._random.random()
        if chance < 0.75:
            return self._random.choice(words.LOCKSPACES).encode()
        if chance < 0.97:
            return self._random.choice(words.PATHS).encode()
        return self._text()

    def _resource(self) -> tuple[bytes, bytes]:
        """Return a lockspace and a name in it."""
        random = self._random
        chance = random.random()
        if chance < 0.4:
            return b"", random.choice(words.DISKS).encode()
        if chance < 0.55:
            return b"", random.choice(words.PATHS).encode()
        if chance < 0.6:
            return b"", self._text()
        if chance < 0.63:
            return b"", TREE.encode() + b"/" + self._text()
        name = random.choice(words.LEASES).encode() if random.random() < 0.85 else self._text()
        return self._lockspace(), name

    @staticmethod
    def _string(data: bytes) -> bytes:
        return pack(">I", len(data)) + data + bytes(-len(data) & 3)

    # Mistakes

    def _with_mistakes(self, data: bytes) -> Fuzzed:
        random = self._random
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            data = random.choice(_MISTAKES)(random, data)
        if random.random() < 0.96:
            # The frame's end is found all the same.
            data = data.ljust(LENGTH_MIN, b"\0")
            data = pack(">I", len(data)) + data[4:]
        is_whole = len(data) >= LENGTH_MIN and unpack_from(">I", data)[0] == len(data)
        closes = closes_own_connection(data) or _brings_descriptors(data)
        return Fuzzed(data, is_whole and not closes)


class _Choice:
    """Draws from weighted makers."""

    def __init__(self, random: Random, weighted: dict[_Maker, float]) -> None:
        self._random = random
        self._makers = list(weighted)
        self._weights = list(weighted.values())

    def draw(self) -> _Maker:
        return self._random.choices(self._makers, self._weights)[0]


def _flip_bits(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8)) if changed else 0):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _truncate(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _extend(random: Random, data: bytes) -> bytes:
    return data + random.randbytes(random.choice((1, 2, 3, 4, 28, 300)))


def _lie_about_length(random: Random, data: bytes) -> bytes:
    length = random.choice((*words.NUMBERS, len(data) - 1, len(data) + 1, len(data) + 28, LENGTH_MAX))
    return pack(">I", max(0, length)) + data[4:]


def _change_header(random: Random, data: bytes) -> bytes:
    if len(data) < HEADER.size:
        return data
    fields = list(HEADER.unpack_from(data))
    field = random.randrange(1, len(fields))
    near = (fields[field] + random.choice((-1, 1))) % 2**32
    programs = (lock.PROGRAM, admin.PROGRAM, status.PROGRAM, keepalive.PROGRAM)
    fields[field] = random.choice((near, random.choice(words.NUMBERS), random.choice(programs)))
    return HEADER.pack(*fields) + data[HEADER.size :]


def _change_word(random: Random, data: bytes) -> bytes:
    """Change four bytes of the payload, which may be the length of a string or a number."""
    if len(data) < HEADER.size + 4:
        return data
    start = HEADER.size + 4 * random.randrange((len(data) - HEADER.size) // 4)
    return data[:start] + pack(">I", random.choice(words.NUMBERS)) + data[start + 4 :]


def _repeat_part(random: Random, data: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + data[start : start + random.randrange(200)] * 2 + data[start:]


def _announce_descriptors(random: Random, data: bytes) -> bytes:
    if len(data) < HEADER.size:
        return data
    fields = list(HEADER.unpack_from(data))
    fields[4] = FrameType.CALL_WITH_FDS
    number = random.choice((0, 0, 1, 32, 33, 2**32 - 1))
    return HEADER.pack(*fields) + pack(">I", number) + data[HEADER.size :]


_MISTAKES = (
    _flip_bits,
    _flip_bits,
    _truncate,
    _extend,
    _lie_about_length,
    _change_header,
    _change_word,
    _repeat_part,
    _announce_descriptors,
)


def may_end_daemon(data: bytes) -> bool:
    """Return whether a frame may be a call that ends the daemon, at once or when it is idle."""
    return _is_call_of(data, admin.PROGRAM, admin.Procedure.DAEMON_SHUTDOWN) or _is_call_of(
        data, admin.PROGRAM, admin.Procedure.SET_DAEMON_TIMEOUT
    )


def closes_own_connection(data: bytes) -> bool:
    """Return whether a frame may be a call for which the daemon closes the connection."""
    return _is_call_of(data, admin.PROGRAM, admin.Procedure.CONNECT_CLOSE)


def closed_client(data: bytes) -> int | None:
    """Return the number of the client that a frame disconnects, or None if it disconnects none."""
    if not _is_call_of(data, admin.PROGRAM, admin.Procedure.CLIENT_CLOSE):
        return None
    try:
        return admin.Arguments(_arguments(data)).client().id
    except DecodeError:
        return None


def registered_pid(data: bytes) -> int | None:
    """Return the pid that a frame registers as an owner, or None if it registers none."""
    if not _is_call_of(data, lock.PROGRAM, lock.Procedure.REGISTER):
        return None
    try:
        return lock.decode_register(_arguments(data))[0].pid
    except DecodeError:
        return None


def _is_call_of(data: bytes, program: int, procedure: int) -> bool:
    return data[4:8] == pack(">I", program) and data[12:16] == pack(">I", procedure)


def _has_descriptors(data: bytes) -> bool:
    """Return whether a frame is a call that begins with the number of its descriptors."""
    return data[16:20] == pack(">I", FrameType.CALL_WITH_FDS)


def _brings_descriptors(data: bytes) -> bool:
    """Return whether a call brings descriptors, or their number is missing. The daemon closes the connection then."""
    return _has_descriptors(data) and data[28:32] != bytes(4)


def _arguments(data: bytes) -> bytes:
    """Return the arguments of a call, without the number of descriptors that a CALL_WITH_FDS begins with."""
    return data[HEADER.size + 4 * _has_descriptors(data) :]
