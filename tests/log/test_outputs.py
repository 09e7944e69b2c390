"""Messages reach the journal, syslog, files and standard error.

No client waits for an output that is stuck.
"""

import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockd.client.connection import LockConnection
from lockd.client.resource import Resource
from lockd.daemon import events
from tests.container import Container
from tests.log.log_control import LogControl, lock_held, log_an_error
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.raw_client import RawClient

# Makes standard error a pipe whose other end only the daemon has, and which nobody reads.
_UNREAD_STDERR = (
    sys.executable,
    "-c",
    "import os, sys; reader, writer = os.pipe(); os.dup2(writer, 2); os.set_inheritable(reader, True);"
    " os.execv(sys.argv[1], sys.argv[1:])",
)


class Receiver:
    """A datagram socket that receives log messages. Its path has to be short."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(15)
        self._socket.bind(str(path))

    def next(self) -> bytes:
        return self._socket.recv(1 << 18)

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()


def _journal_fields(message: bytes) -> dict[str, bytes]:
    """Parse a message of the journal's native protocol into its fields."""
    fields = {}
    while message:
        line, _, message = message.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", message)
            value, message = message[8 : 8 + size], message[8 + size + 1 :]
        fields[name.decode()] = value
    return fields


@pytest.fixture
def private_run(tmp_path: Path) -> Path:
    """The future /run of the daemon in the directory "daemon"."""
    if os.geteuid() != 0:
        pytest.skip("a /run of the daemon's own needs root, for a mount namespace")
    run = tmp_path / "daemon" / "run"
    run.mkdir(parents=True)
    return run


@pytest.fixture
def journal(private_run: Path) -> Iterator[Receiver]:
    with Receiver(private_run / "systemd" / "journal" / "socket") as receiver:
        yield receiver


def test_the_journal_gets_an_event_with_its_fields(journal: Receiver, tmp_path: Path, disk: Path) -> None:
    settings = 'log_level = 2\nlog_outputs = "2:journald"\n'
    with private_daemon(tmp_path / "daemon", settings=settings) as daemon, lock_held(daemon, disk):
        fields = _journal_fields(journal.next())
        assert fields["MESSAGE_ID"].decode() == events.ACQUIRED
        assert fields["LOCKD_LOCKSPACE"] == b""
        assert fields["LOCKD_RESOURCE"] == str(disk).encode()
        assert fields["LOCKD_OWNER_PID"] == str(os.getpid()).encode()
        assert fields["LOCKD_OWNER_NAME"]
        assert fields["LOCKD_OWNER_UUID"]
        assert fields["PRIORITY"] == b"6"
        assert fields["SYSLOG_IDENTIFIER"] == b"virtlockd"
        assert str(disk).encode() in fields["MESSAGE"]
        assert fields["CODE_FILE"].endswith(b"events.py")


def test_the_pid_in_an_event_is_one_of_this_host(journal: Receiver, tmp_path: Path, disk: Path) -> None:
    """An owner whose pid here is not known has none in its events, and never the key that its holdings are stored by."""
    settings = 'log_level = 2\nlog_outputs = "2:journald"\n'
    with Container() as container, private_daemon(tmp_path / "daemon", settings=settings) as daemon:
        client = container.start(daemon.socket).register(888)
        for call, event in ((client.acquire, events.ACQUIRED), (client.release, events.RELEASED)):
            assert call(disk) is None
            fields = _journal_fields(journal.next())
            assert fields["MESSAGE_ID"].decode() == event
            assert (fields["LOCKD_OWNER_NAME"], fields.get("LOCKD_OWNER_PID")) == (b"vm1", None)
            assert b'domain "vm1" (pid 888 of another pid namespace)' in fields["MESSAGE"]
        guest = container.start(daemon.socket)
        assert guest.register(name="vm2").acquire(disk) is None
        assert _journal_fields(journal.next())["LOCKD_OWNER_PID"] == str(guest.pid).encode()


def test_a_field_may_have_lines(journal: Receiver, tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon", settings='log_outputs = "3:journald"\n') as daemon:
        log_an_error(daemon, "two\nlines")
        fields = _journal_fields(journal.next())
        assert fields["MESSAGE_ID"].decode() == events.REFUSED
        assert fields["PRIORITY"] == b"3"
        assert fields["LOCKD_RESOURCE"] == f"{daemon.directory}/two\nlines".encode()


@pytest.mark.parametrize("letter", ["\x1b", "\U000e0001"], ids=["1 byte", "4 bytes"])
def test_a_long_name_of_control_characters_does_not_hide_an_event(
    journal: Receiver, tmp_path: Path, disk: Path, letter: str
) -> None:
    """Escaped, it was too long for a datagram."""
    size = 65536 // len(letter.encode())
    settings = 'log_level = 2\nlog_outputs = "2:journald"\n'
    with (
        private_daemon(tmp_path / "daemon", settings=settings) as daemon,
        RawClient(daemon, name=letter * size) as client,
    ):
        assert client.acquire(disk) is None
        fields = _journal_fields(journal.next())
        assert fields["MESSAGE_ID"].decode() == events.ACQUIRED
        message = fields["MESSAGE"].decode()
        escaped = "".join(f"\\x{byte:02x}" for byte in letter.encode())
        assert re.match(rf'domain "({re.escape(escaped)})+\[\.\.\. [0-9]+ more characters \.\.\.\]', message)
        assert message.endswith(f" acquired {disk}")
        name = fields["LOCKD_OWNER_NAME"]
        assert name.startswith(letter.encode() * 2000)
        assert name.endswith(b"[... 57344 more bytes]")
        assert fields["LOCKD_RESOURCE"] == str(disk).encode()
        client.acquire(letter * size, lockspace=letter * size)
        refused = _journal_fields(journal.next())
        while refused["PRIORITY"] != b"3":
            refused = _journal_fields(journal.next())
        assert b"more characters" in refused["MESSAGE"]


def test_the_journal_may_come_later(private_run: Path, tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon", settings='log_outputs = "3:journald"\n') as daemon:
        log_an_error(daemon, "before")
        with Receiver(private_run / "systemd" / "journal" / "socket") as journal:
            log_an_error(daemon, "after")
            assert _journal_fields(journal.next())["LOCKD_RESOURCE"].endswith(b"/after")


def test_syslog_gets_messages_under_the_name_that_was_set(private_run: Path, tmp_path: Path) -> None:
    with (
        private_daemon(tmp_path / "daemon", settings='log_outputs = "3:syslog:locks"\n') as daemon,
        Receiver(private_run / "log") as syslog,
    ):
        daemon.run_inside("mount", "-t", "tmpfs", "tmpfs", "/dev")
        daemon.run_inside("ln", "--symbolic", "/run/log", "/dev/log")
        log_an_error(daemon)
        message = syslog.next().decode()
        # Facility daemon, priority error
        assert message.startswith("<27>")
        assert f" locks[{daemon.pid}]: " in message
        assert "was refused" in message


def test_standard_error_gets_lines(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon", settings='log_outputs = "3:stderr"\n') as daemon:
        log_an_error(daemon)
        assert "was refused" in daemon.output()


# No client waits for an output


def _log_much(daemon: PrivateDaemon, disk: Path) -> None:
    """Log more than a receiver can take that does not read.

    The daemon has to answer each call in spite of it.
    """
    resource = Resource("", str(disk))
    with LockConnection.connect(daemon.socket, timeout=15) as connection:
        connection.register()
        for _ in range(1500):
            connection.acquire(resource)
            connection.release(resource)


def test_nobody_waits_for_a_journal_that_does_not_read(journal: Receiver, tmp_path: Path, disk: Path) -> None:
    settings = 'log_level = 2\nlog_outputs = "2:journald"\n'
    with private_daemon(tmp_path / "daemon", settings=settings) as daemon:
        _log_much(daemon, disk)
        assert b"acquired" in journal.next()


def test_nobody_waits_for_a_standard_error_that_nobody_reads(tmp_path: Path, disk: Path) -> None:
    settings = 'log_level = 2\nlog_outputs = "2:stderr"\n'
    with private_daemon(tmp_path / "daemon", wrapper=_UNREAD_STDERR, settings=settings) as daemon:
        _log_much(daemon, disk)


def test_a_full_disk_loses_messages_and_nothing_else(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon", settings='log_outputs = "3:file:/dev/full"\n') as daemon:
        log_an_error(daemon)
        LogControl(daemon).set_outputs(f"3:file:{tmp_path}/log")
        log_an_error(daemon)
        assert "was refused" in (tmp_path / "log").read_text()


def test_nobody_waits_for_the_reader_of_a_named_pipe(tmp_path: Path) -> None:
    """virtlockd waits for a reader, and never answers any client again."""
    os.mkfifo(tmp_path / "pipe")
    with private_daemon(tmp_path / "daemon") as daemon:
        error = LogControl(daemon).refused_outputs(f"3:file:{tmp_path}/pipe")
        assert error.message == f"failed to open {tmp_path}/pipe: No such device or address"
