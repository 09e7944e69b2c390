"""Replies of the admin program equal virtlockd's byte for byte, also to calls that virt-admin cannot make."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import pytest

from lockd.wire.admin import PARAMETERS_MAX, ParameterType, Procedure
from lockd.wire.errors import ErrorReply
from lockd.wire.frames import Frame, Status
from tests.admin.conftest import Side
from tests.admin.raw_admin import (
    RawAdmin,
    RawParameter,
    arguments,
    client,
    number64,
    optional,
    parameters,
)
from tests.private_daemon import VIRTLOCKD
from tests.waiting import wait_until

Call: TypeAlias = tuple[Procedure | int, bytes]

_GETTERS = {
    Procedure.SET_THREADPOOL_PARAMETERS: (Procedure.GET_THREADPOOL_PARAMETERS, arguments("virtlockd", 0)),
    Procedure.SET_CLIENT_LIMITS: (Procedure.GET_CLIENT_LIMITS, arguments("virtlockd", 0)),
    Procedure.SET_LOGGING_FILTERS: (Procedure.GET_LOGGING_FILTERS, arguments(0)),
    Procedure.SET_LOGGING_OUTPUTS: (Procedure.GET_LOGGING_OUTPUTS, arguments(0)),
}
"""For a call that sets something, the call that gets it."""

_NAMES = {
    Procedure.SET_THREADPOOL_PARAMETERS: (
        "minWorkers",
        "maxWorkers",
        "prioWorkers",
        "nWorkers",
        "jobQueueDepth",
    ),
    Procedure.SET_CLIENT_LIMITS: ("nclients_max", "nclients_unauth_max", "nclients", "nclients_unauth"),
}

_VALUES: tuple[tuple[int, int | float | str], ...] = (
    (ParameterType.UINT, 5),
    (ParameterType.UINT, 0),
    (ParameterType.INT, 5),
    (ParameterType.LLONG, 5),
    (ParameterType.ULLONG, 5),
    (ParameterType.DOUBLE, 5.0),
    (ParameterType.BOOLEAN, 1),
    (ParameterType.BOOLEAN, 2),
    (ParameterType.STRING, "5"),
    (0, 5),
    (8, 5),
)

_FILTERS = (
    "1:locking", "1:locking 4:object  2:rpc", "", None, "   ", "x", "1", "1:", "0:a", "5:a", "12:x", "-1:a", "+1:a",
    "01:a", "1 :a", "1: a", "\t1:a", "4:a:b", "1:a:", "1::a", ":a", " 1:a", "1:a ", "1:foo*", "1:*", "1:*a*", "1:[ab",
    "4:[x]y", "1:+foo", "1:++a", "1:+", "4:a\n3:b", "4:a 4:a", "4:a 3:a", '1:"x"', "1:a,2:b", "4:b 5:c", "4:é",
    "1:" + "x" * 5000, "1:%s",
)  # fmt: skip

_OUTPUTS = (
    "1:stderr", "4:stderr 3:stderr", "1:file", "1:file:/run/missing/x", "1:file:/run", "1:file:/run/a",
    "2:file:/run/a 3:file:/run/a", "2:file:/run/a 2:file:/run/b", "3:file:/run/../run/a", "1:file:/run/./a",
    "1:syslog", "1:syslog:", "3:syslog:virtlockd", "3:syslog:a:b", "2:syslog:a 2:syslog:b", "1:syslog:a 2:syslog:a",
    "1:journald", "1:journald:x", "1:journald 2:journald", "1:stderr:x", "3:stderr:", "0:stderr", "5:stderr",
    "+1:stderr", "01:stderr", "1 :stderr", "x:stderr", ":stderr", "stderr", "1", "1:", "1::", ":", "x", "1:+",
    "1:bogus", "1:bogus:y", "1:STDERR", "1:stderr,2:stderr", " 1:stderr", "1:stderr ", "3:stderr 9:stderr",
    "4:stderr 1:file:/run/a", "4:stderr 1:file:/run/a 3:stderr", "4:stderr\n3:file:/run/a", "1:file:/run/a b",
    "1:file:/run/x:y z", "", None, "4:stderr",
)  # fmt: skip


def _on_parameters() -> Iterator[Call]:
    uint, int_ = ParameterType.UINT, ParameterType.INT
    for procedure, names in _NAMES.items():

        def call(server: str, flags: int, *values: RawParameter, to: Procedure = procedure) -> Call:
            return to, arguments(server, parameters(*values), flags)

        first, second = names[:2]
        for name in (*names, "unknown", ""):
            for type_, value in _VALUES:
                yield call("virtlockd", 0, (name, type_, value))
        for limits in ((2000, 1999), (1999, 2000), (10, 20), (20, 10), (0, 0), (4294967295, 4294967295)):
            yield call("virtlockd", 0, (first, uint, limits[0]), (second, uint, limits[1]))
        yield call("virtlockd", 0)
        yield call("virtlockd", 1)
        yield call("nobody", 1)
        yield call("", 0)
        long_name = ("n" * 80, uint, 1)
        yield call("nobody", 0, long_name)
        yield call("virtlockd", 1, long_name)
        yield call("virtlockd", 0, (first, uint, 1), long_name)
        yield call("virtlockd", 0, ("n" * 79, uint, 1))
        yield call("virtlockd", 1, ("unknown", uint, 1))
        yield call("virtlockd", 0, (first, uint, 1), (first, uint, 1))
        yield call("virtlockd", 0, (first, uint, 1), (first, int_, 1))
        yield call("virtlockd", 0, (first, uint, 1), (first, uint, 1), ("zz", uint, 1))
        yield call("virtlockd", 0, (first, uint, 1), (first, uint, 1), ("aa", uint, 1))
        yield call("virtlockd", 0, (second, int_, 1), (first, int_, 1))
        yield call("virtlockd", 0, ("zz", uint, 1), ("yy", uint, 1))
        for count in (PARAMETERS_MAX, PARAMETERS_MAX + 1):
            yield call("virtlockd", 0, *[("unknown", uint, 1)] * count)


def _on_the_log() -> Iterator[Call]:
    for filters in _FILTERS:
        yield Procedure.SET_LOGGING_FILTERS, arguments(optional(filters), 0)
    for outputs in _OUTPUTS:
        yield Procedure.SET_LOGGING_OUTPUTS, arguments(optional(outputs), 0)
    for procedure in (Procedure.SET_LOGGING_FILTERS, Procedure.SET_LOGGING_OUTPUTS):
        yield procedure, arguments(optional("wrong"), 1)
    for procedure in (Procedure.GET_LOGGING_FILTERS, Procedure.GET_LOGGING_OUTPUTS):
        yield procedure, arguments(1)


def _on_servers_and_clients() -> Iterator[Call]:
    for server in ("virtlockd", "nobody", ""):
        for flags in (0, 1, 0x80000000):
            for procedure in (
                Procedure.LOOKUP_SERVER,
                Procedure.GET_THREADPOOL_PARAMETERS,
                Procedure.GET_CLIENT_LIMITS,
                Procedure.UPDATE_TLS_FILES,
            ):
                yield procedure, arguments(server, flags)
            for wanted in (0, 1, 7):
                yield Procedure.LIST_CLIENTS, arguments(server, wanted, flags)
            for number in (2, 4711, 2**64 - 1):
                yield Procedure.LOOKUP_CLIENT, arguments(server, number64(number), flags)
                yield Procedure.CLIENT_GET_INFO, arguments(client(server, number), flags)
                yield Procedure.CLIENT_GET_INFO, arguments(client(server, number, -5, 77), flags)
                if (number, flags) != (2, 0):
                    yield Procedure.CLIENT_CLOSE, arguments(client(server, number), flags)


def _on_the_daemon() -> Iterator[Call]:
    for flags in (0, 1, 0xFFFFFFFF):
        yield Procedure.CONNECT_OPEN, arguments(flags)
        yield Procedure.SET_DAEMON_TIMEOUT, arguments(100, flags)
        yield Procedure.LIST_SERVERS, arguments(0, flags)
    yield Procedure.GET_LIB_VERSION, b""
    yield Procedure.GET_LIB_VERSION, b"what follows is ignored"
    yield 0, b""
    yield 21, b""
    yield 0xFFFFFFFF, b""


def _cut_short() -> Iterator[Call]:
    without_arguments = Procedure.CONNECT_CLOSE, Procedure.GET_LIB_VERSION
    yield Procedure.LIST_SERVERS, bytes(7)
    for procedure in Procedure:
        # virtlockd lists its servers in another order in each process. virtlockd 9.0 has no DAEMON_SHUTDOWN.
        if procedure not in (*without_arguments, Procedure.LIST_SERVERS, Procedure.DAEMON_SHUTDOWN):
            for payload in (
                b"",
                b"\0\0\0",
                b"\xff\xff\xff\xff",
                b"\0\0\0\x05admin",
                b"\0\x40\0\1" + bytes(16),
            ):
                yield procedure, payload


@pytest.mark.parametrize(
    "calls", [_on_the_daemon, _on_servers_and_clients, _on_parameters, _on_the_log, _cut_short]
)
def test_replies_are_the_same(ends: tuple[RawAdmin, RawAdmin], calls: Callable[[], Iterator[Call]]) -> None:
    ours, theirs = ends
    for procedure, payload in calls():
        call = procedure, payload
        assert _said(ours.call(*call)) == _said(theirs.call(*call)), call
        if procedure in _GETTERS:
            shown = _GETTERS[Procedure(procedure)]
            ours_shown = ours.result(*shown)
            # virtlockd shows its number of threads, and some of them may be about to end.
            wait_until(partial(_shows, theirs, shown, ours_shown), f"{ours_shown!r} after {call}")


def _shows(admin: RawAdmin, shown: tuple[Procedure, bytes], expected: bytes) -> bool:
    return admin.result(*shown) == expected


def _said(reply: Frame | None) -> tuple[object, ...]:
    """Return a reply without its serial number and times; an error also as text."""
    if reply is None:
        return ()
    if reply.status == Status.ERROR:
        return reply.procedure, reply.type, reply.payload, ErrorReply.decode(reply.payload)
    words = [reply.payload[start : start + 4] for start in range(0, len(reply.payload), 4)]
    return reply.procedure, reply.type, ["TIME" if _is_recent(word) else word for word in words]


def _is_recent(word: bytes) -> bool:
    return 0 <= time.time() - int.from_bytes(word, "big") < 600


# Intended differences


def test_a_name_is_not_cut_short_by_a_nul(ends: tuple[RawAdmin, RawAdmin]) -> None:
    ours, theirs = ends
    call = Procedure.LOOKUP_SERVER, arguments("admin\0x", 0)
    assert theirs.result(*call) == arguments("admin")
    assert ours.error(*call).str2 == "No server named 'admin\0x'"


def test_outputs_that_are_nothing_but_space_mean_the_default(ends: tuple[RawAdmin, RawAdmin]) -> None:
    """virtlockd sets an empty list of outputs, and then fails to return that list."""
    ours, theirs = ends
    for end in ends:
        end.result(Procedure.SET_LOGGING_OUTPUTS, arguments(optional(" "), 0))
    show = Procedure.GET_LOGGING_OUTPUTS, arguments(0)
    assert theirs.error(*show).message == "Library function returned error but did not set virError"
    default = ours.result(*show)
    for end in ends:
        end.result(Procedure.SET_LOGGING_OUTPUTS, arguments(optional(None), 0))
        assert end.result(*show) == default


def test_a_client_is_known_before_its_first_call(
    pair: tuple[Side, Side], ends: tuple[RawAdmin, RawAdmin]
) -> None:
    ours, theirs = ends
    with pair[0].daemon.connect(), pair[1].daemon.connect():
        newest = Procedure.CLIENT_GET_INFO, arguments(client("virtlockd", 4), 0)
        assert theirs.error(*newest).str2 == "No identity information available for client"
        assert b"unix_process_id" in ours.result(*newest)


def test_more_workers_than_there_can_be_are_refused(side: Side, admin: RawAdmin) -> None:
    """virtlockd starts a thread for each, and aborts when memory runs out: all locks are lost."""
    workers = parameters(("prioWorkers", ParameterType.UINT, 4294967295))
    reply = admin.call(Procedure.SET_THREADPOOL_PARAMETERS, arguments("virtlockd", workers, 0))
    if side.daemon.program == VIRTLOCKD:
        assert reply is None
        assert side.daemon.process.wait(15) < 0
    else:
        assert reply is not None
        assert "cannot be larger than" in str(ErrorReply.decode(reply.payload).message)


@pytest.mark.parametrize("text", ["1:" + "x" * 4_000_000, "1:x " * 1_000_000])
def test_a_setting_that_would_keep_the_daemon_busy_is_refused(
    ends: tuple[RawAdmin, RawAdmin], text: str
) -> None:
    ours, _ = ends
    error = ours.error(Procedure.SET_LOGGING_FILTERS, arguments(optional(text), 0))
    assert error.str2 == "More than 65536 characters or 256 items in a log setting"
