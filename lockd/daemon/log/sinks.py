"""Where log messages go. No sink ever waits: a message that its receiver has no room for is dropped.

A daemon that stood still because nobody reads its log would hold up every guest (Invariant 3). That is also why
this speaks to journald and syslog itself: their libraries wait until there is room.
"""

import errno
import logging
import os
import select
import socket
import struct
import time
from contextlib import suppress
from typing import Final, Protocol

from lockd.daemon.log.settings import JOURNAL_SOCKET, Level, LogSettingError, Output
from lockd.engines.files.inodes import Claim, Claimed, Inodes

_SYSLOG_SOCKET: Final = "/dev/log"
_FACILITY_DAEMON: Final = 3
_PRIORITIES: Final = {Level.DEBUG: 7, Level.INFO: 6, Level.WARNING: 4, Level.ERROR: 3}
"""syslog's numbers (syslog(3)), which the journal uses too."""

_STDERR: Final = 2
_LENGTH = struct.Struct("<Q")

_CONTROL = {number: f"\\x{number:02x}" for number in (*range(32), 127)} | {ord("\n"): "\\n"}
"""Names that peers choose must not look like another line of the log."""


class Sink(Protocol):
    """Takes messages."""

    def write(self, record: logging.LogRecord) -> None:
        """Take one message; whatever is wrong with the receiver, nothing is raised."""


def level_of(record: logging.LogRecord) -> Level:
    """Return libvirt's level for a message."""
    return Level(min(max(record.levelno // 10, Level.DEBUG), Level.ERROR))


def text_of(record: logging.LogRecord) -> str:
    """Return a message's text in one line; only a fault of the daemon's own is followed by its traceback."""
    text = record.getMessage().translate(_CONTROL)
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text


def _module_of(record: logging.LogRecord) -> str:
    return record.name.rpartition(".")[2]


def _is_traced(record: logging.LogRecord) -> bool:
    """Whether the record tells where it was made. Compiled code has no frames, so its caller's caller is told."""
    return record.module == _module_of(record)


def line_of(record: logging.LogRecord) -> bytes:
    """Return the line of a message, in libvirt's form: time, pid, level, where it was logged, and its text."""
    seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
    level = level_of(record).name.lower()
    line = (
        f"{seconds}.{int(record.msecs):03}+0000: {record.process}: {level} : "
        f"{_module_of(record)}:{record.lineno if _is_traced(record) else 0} : {text_of(record)}\n"
    )
    return line.encode(errors="surrogateescape")


class StandardError:
    """The daemon's standard error."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._poll.register(_STDERR, select.POLLOUT)
        self._torn = False

    def write(self, record: logging.LogRecord) -> None:
        """Write a line, as far as there is room: it may be a pipe that nobody reads.

        A pipe that can be written to has room for PIPE_BUF bytes, and a larger write may wait (pipe(7)).
        """
        line = line_of(record)
        if self._torn:
            line = b"\n" + line
        with suppress(OSError):
            for start in range(0, len(line), select.PIPE_BUF):
                if not self._poll.poll(0):
                    self._torn = self._torn or start > 0
                    return
                os.write(_STDERR, line[start : start + select.PIPE_BUF])
            self._torn = False


class LogFile:
    """A file that lines are added to.

    Its inode is claimed. So a client cannot lock the log file, which would lose the lock when the log goes
    elsewhere, and a file that is locked cannot become the log (Invariant 1).
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        claim.holder = self

    def __str__(self) -> str:
        return "the daemon itself, as its log"

    def write(self, record: logging.LogRecord) -> None:
        """Write a line; on a full disk it is lost."""
        with suppress(OSError):
            os.write(self.claim.fd, line_of(record))

    @classmethod
    def open(cls, path: str, inodes: Inodes) -> "LogFile":
        """Return the log file of this path: the one that is open already where there is one.

        :raises LogSettingError: it cannot be opened, or is locked.
        """
        # Not blocking: at the other end of a named pipe there may be nobody.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK
        try:
            return cls(inodes.open_pinned(path, flags, None))
        except Claimed as claimed:
            holder = claimed.claim.holder
            if isinstance(holder, LogFile):
                return holder
            message = f"failed to open {path}: it is held as a lock"
            raise LogSettingError(message, errno.EBUSY) from None
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None) or errno.EINVAL
            raise LogSettingError(f"failed to open {path}: {os.strerror(number)}", number) from None


class _Datagrams:
    """Sends messages to a socket that may not be there now, and come back."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def send(self, data: bytes) -> None:
        with suppress(OSError):
            self._socket.sendto(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)


class Journal:
    """systemd's journal, by its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).

    What a message brings along under ``fields`` becomes its fields there.
    """

    def __init__(self) -> None:
        self._datagrams = _Datagrams(JOURNAL_SOCKET)

    def write(self, record: logging.LogRecord) -> None:
        """Send a message with its fields."""
        fields = {
            "MESSAGE": text_of(record),
            "PRIORITY": _PRIORITIES[level_of(record)],
            "SYSLOG_FACILITY": _FACILITY_DAEMON,
            "SYSLOG_IDENTIFIER": "virtlockd",
            **getattr(record, "fields", {}),
        }
        if _is_traced(record):
            fields |= {
                "CODE_FILE": record.pathname,
                "CODE_LINE": record.lineno,
                "CODE_FUNC": record.funcName,
            }
        self._datagrams.send(b"".join(_journal_field(name, str(value)) for name, value in fields.items()))


def _journal_field(name: str, value: str) -> bytes:
    key, data = name.encode(), value.encode(errors="surrogateescape")
    if b"\n" in data:
        return key + b"\n" + _LENGTH.pack(len(data)) + data + b"\n"
    return key + b"=" + data + b"\n"


class Syslog:
    """syslog, under a name of one's own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._datagrams = _Datagrams(_SYSLOG_SOCKET)

    def write(self, record: logging.LogRecord) -> None:
        """Send a message, in the form that syslog(3) gives it."""
        priority = _FACILITY_DAEMON * 8 + _PRIORITIES[level_of(record)]
        when = time.strftime("%b %e %H:%M:%S", time.localtime(record.created))
        message = f"<{priority}>{when} {self._name}[{record.process}]: {text_of(record)}"
        self._datagrams.send(message.encode(errors="surrogateescape"))


def open_sink(output: Output, inodes: Inodes) -> Sink:
    """Return where an output's messages go.

    :raises LogSettingError: its file cannot be opened.
    """
    match output.destination:
        case "file":
            return LogFile.open(output.name or "", inodes)
        case "syslog":
            return Syslog(output.name or "")
        case "journald":
            return Journal()
    return StandardError()
