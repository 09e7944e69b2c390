"""No peer can harm the daemon or other clients, whatever it sends and even if it never reads."""

import contextlib
import itertools
import os
import resource
import socket
from pathlib import Path
from struct import pack

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lockd.wire import admin, keepalive, lock, status
from lockd.wire.frames import HEADER, LENGTH_MAX, FrameType, encode
from lockd.wire.lock import Procedure
from tests.robustness.conftest import Guard
from tests.robustness.observed import descriptors, nothing_left_behind, resident_bytes

U32 = st.one_of(
    st.integers(0, 40),
    st.sampled_from([LENGTH_MAX, LENGTH_MAX + 1, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1]),
    st.integers(0, 2**32 - 1),
)
PROGRAMS = st.one_of(
    st.sampled_from([lock.PROGRAM, admin.PROGRAM, keepalive.PROGRAM, status.PROGRAM]),
    st.integers(0, 2**32 - 1),
)

# Procedures of the admin program that change nothing. Others would end the daemon or disconnect clients.
ADMIN_QUESTIONS = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 14, 15, 21, 2**31, 2**32 - 1])


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Generate a frame in which anything may be wrong: the length, the header and the payload."""
    arguments = [
        st.binary(max_size=80),
        st.builds(lambda size, rest: pack(">I", size) + rest, U32, st.binary(max_size=80)),
        st.builds(
            lambda name, flags: lock.encode_resource("", f"/nowhere/{name}", flags), st.text(max_size=20), U32
        ),
    ]
    payload: bytes = draw(st.one_of(arguments))
    right = st.just(HEADER.size + len(payload))
    length = draw(st.one_of(right, right, right, U32))
    program, version = draw(PROGRAMS), draw(st.sampled_from([1, 1, 1, 0, 2, 2**32 - 1]))
    procedures = ADMIN_QUESTIONS if program == admin.PROGRAM else st.one_of(st.integers(0, 21), U32)
    procedure, kind = draw(procedures), draw(st.one_of(st.integers(0, 7), U32))
    header = HEADER.pack(length, program, version, procedure, kind, draw(U32), draw(U32))
    return header + payload


STREAMS = st.one_of(st.binary(max_size=200), st.lists(frames(), max_size=6).map(b"".join))


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 1000), max_size=4), admin_socket=st.booleans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_do_no_harm(guard: Guard, stream: bytes, cuts: list[int], admin_socket: bool) -> None:
    daemon = guard.daemon
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(daemon.admin_socket if admin_socket else daemon.socket))
    with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
        for start, end in itertools.pairwise(places):
            connection.sendall(stream[start:end])
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.recv(65536)
    guard.check()


def test_fuzzing_has_left_nothing_behind(guard: Guard) -> None:
    with nothing_left_behind(guard.daemon):
        for number in range(2000):
            with guard.daemon.connect() as connection:
                connection.sendall(bytes([number % 256]) * (number % 60))
        guard.check()


def test_thousands_of_unfinished_frames_do_no_harm(guard: Guard) -> None:
    raise_own_limit()
    call = encode(lock.PROGRAM, 1, Procedure.CREATE_LOCKSPACE, FrameType.CALL, 1, 0, bytes(4))
    with nothing_left_behind(guard.daemon), contextlib.ExitStack() as stack:
        for number in range(3000):
            connection = stack.enter_context(guard.daemon.connect())
            connection.sendall(call[: number % len(call)])
        guard.check()


def test_a_frame_of_32_mib_costs_no_more_memory_than_arguments_may_take(guard: Guard) -> None:
    clients = 50
    with nothing_left_behind(guard.daemon, 16 << 20), contextlib.ExitStack() as stack:
        before = resident_bytes(guard.daemon)
        for _ in range(clients):
            connection = stack.enter_context(guard.daemon.connect())
            connection.sendall(HEADER.pack(LENGTH_MAX, lock.PROGRAM, 1, Procedure.CREATE_LOCKSPACE, 0, 1, 0))
            connection.sendall(bytes(4 << 20))
        guard.check()
        assert resident_bytes(guard.daemon) - before < clients * (3 * lock.ARGUMENTS_MAX) + (8 << 20)


def test_a_frame_of_32_mib_is_answered_once_all_of_it_is_there(guard: Guard) -> None:
    with guard.daemon.connect() as connection:
        connection.sendall(HEADER.pack(LENGTH_MAX, lock.PROGRAM, 1, Procedure.CREATE_LOCKSPACE, 0, 7, 0))
        left = LENGTH_MAX - HEADER.size
        while left:
            left -= connection.send(bytes(min(left, 1 << 20)))
        assert HEADER.unpack(connection.recv(HEADER.size, socket.MSG_WAITALL))[5:] == (7, 0)


def test_a_peer_that_sends_and_never_reads_takes_little_memory(guard: Guard) -> None:
    call = encode(lock.PROGRAM, 1, 99, FrameType.CALL, 1, 0, b"")
    with nothing_left_behind(guard.daemon), guard.daemon.connect() as connection:
        before = resident_bytes(guard.daemon)
        connection.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 << 20:
                sent += connection.send(call * 1000)
        assert sent < 64 << 20
        # The calls wait in the socket's buffer, and not in the daemon's memory.
        guard.check()
        assert resident_bytes(guard.daemon) - before < 2 << 20
        connection.settimeout(15)
        answered = b""
        while sent // len(call) > answered.count(b"unknown procedure: 99") // 2:
            answered += connection.recv(1 << 20)


def test_descriptors_that_are_passed_along_do_not_leak(guard: Guard) -> None:
    ping = encode(keepalive.PROGRAM, 1, keepalive.Procedure.PING, FrameType.MESSAGE, 0)
    with guard.daemon.connect() as connection, Path(os.devnull).open("rb") as file:
        connection.sendall(ping)
        connection.recv(HEADER.size, socket.MSG_WAITALL)
        before = descriptors(guard.daemon)
        for _ in range(20):
            socket.send_fds(connection, [ping], [file.fileno()] * 200)
            assert connection.recv(HEADER.size, socket.MSG_WAITALL) == keepalive.PONG
            # Descriptors may also come with a part of a frame.
            socket.send_fds(connection, [ping[:3]], [file.fileno()] * 200)
            connection.sendall(ping[3:])
            assert connection.recv(HEADER.size, socket.MSG_WAITALL) == keepalive.PONG
        assert descriptors(guard.daemon) == before


def raise_own_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def test_clients_that_leave_without_reading_leave_nothing_behind(guard: Guard) -> None:
    with nothing_left_behind(guard.daemon):
        for _ in range(200):
            with guard.daemon.connect() as connection:
                connection.sendall(guard.client.frame(99, b"") * 50)
        guard.check()
