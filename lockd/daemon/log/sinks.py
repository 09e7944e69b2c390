"""The destinations of log messages. A message is dropped if its receiver has no room for it.

A daemon that waits for the reader of its log would delay every guest (Invariant 3). For the same reason, the
protocols of journald and syslog are implemented here: their libraries wait until there is room.
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
from lockd.engines.files.claims import Claim, Claimed
from lockd.engines.files.inodes import Inodes
from lockd.linux.directories import make_directories
from lockd.linux.printable import printable

_SYSLOG_SOCKET: Final = "/dev/log"
_FACILITY_DAEMON: Final = 3
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PRIORITIES: Final = {Level.DEBUG: 7, Level.INFO: 6, Level.WARNING: 4, Level.ERROR: 3}
"""The priorities of syslog(3). The journal uses the same numbers."""

STANDARD_ERROR: Final = 2
_DIRECTORY_MODE: Final = 0o700
"""The mode of a directory that is made for the default log file. The file is for its owner only, too."""

_CHARACTERS_MAX: Final = 8192
"""The largest number of characters in a line of a message, before it is escaped. A name may have 64 KiB. A datagram may
have as many bytes as the send buffer of its socket (unix(7)): 208 KiB, unless the administrator changes that
(net.core.wmem_default in socket(7)). A larger one is refused, and the journal would never know of the event. Each
character is escaped by 16 others at most."""

_FIELD_MAX: Final = 8192
"""The largest number of bytes in a field of the journal: twice those of any path that can be opened (PATH_MAX)."""

_LENGTH = struct.Struct("<Q")


class Sink(Protocol):
    """A destination of messages."""

    def write(self, record: logging.LogRecord) -> None:
        """Write one message. This does not wait, whatever the state of the receiver is.

        :param record: the message.
        """


def level_of(record: logging.LogRecord) -> Level:
    """Return libvirt's level for a message.

    :param record: the message.
    :returns: the level.
    """
    return Level(min(max(record.levelno // 10, Level.DEBUG), Level.ERROR))


def text_of(record: logging.LogRecord) -> str:
    """Return the text of a message. UTF-8 can encode it, whatever names it has.

    Peers choose names that are logged. A line break in such a name must not look like another line of the
    log, and a terminal that shows the log must not obey a name.

    :param record: the message.
    :returns: the text, in one line. If the message reports an exception, which is a bug in the daemon, the
        lines of its traceback follow. Of a line that is too long, the middle is left out.
    """
    lines = [record.getMessage()]
    if record.exc_info:
        lines += logging.Formatter().formatException(record.exc_info).split("\n")
    return "\n".join(printable(_without_middle(line)) for line in lines)


def _without_middle(text: str) -> str:
    """Return a text that is not too long. The start of a message says who and what, the end says why."""
    excess = len(text) - _CHARACTERS_MAX
    if excess <= 0:
        return text
    half = _CHARACTERS_MAX // 2
    return f"{text[:half]}[... {excess} more characters ...]{text[-half:]}"


def _clock(moment: time.struct_time) -> str:
    """Return the time of day.

    strftime(3) calls tzset(3), which opens and closes /etc/localtime when that is another file than before. This would
    end the locks on it (Invariant 1).
    """
    return f"{moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02}"


def _module_of(record: logging.LogRecord) -> str:
    return record.name.rpartition(".")[2]


def _is_traced(record: logging.LogRecord) -> bool:
    """Return whether the record has the place in the code where it was logged.

    For messages of compiled code, which has no frames, ``logging`` records a place in an interpreted caller
    instead.
    """
    return record.module == _module_of(record)


def line_of(record: logging.LogRecord) -> bytes:
    """Return a message as a line in libvirt's format.

    The line has the time (UTC), the pid, the level, the place in the code, and the text.

    :param record: the message.
    :returns: the line, with its line break.
    """
    utc = time.gmtime(record.created)
    level = level_of(record).name.lower()
    line = (
        f"{utc.tm_year}-{utc.tm_mon:02}-{utc.tm_mday:02} {_clock(utc)}.{int(record.msecs):03}+0000: "
        f"{record.process}: {level} : "
        f"{_module_of(record)}:{record.lineno if _is_traced(record) else 0} : {text_of(record)}\n"
    )
    return line.encode()


class StandardError:
    """The daemon's standard error."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._poll.register(STANDARD_ERROR, select.POLLOUT)
        self._torn = False

    def write(self, record: logging.LogRecord) -> None:
        """Write a line, as far as there is room. Standard error may be a pipe that nobody reads.

        A pipe that poll(2) reports as writable has room for PIPE_BUF bytes; a larger write may wait
        (pipe(7)).

        :param record: the message.
        """
        self.write_line(line_of(record))

    def write_line(self, line: bytes) -> None:
        """Write a line that is encoded already. See ``write``.

        :param line: the line, with its line break.
        """
        if self._torn:
            line = b"\n" + line
        with suppress(OSError):
            for start in range(0, len(line), select.PIPE_BUF):
                if not self._poll.poll(0):
                    self._torn = self._torn or start > 0
                    return
                os.write(STANDARD_ERROR, line[start : start + select.PIPE_BUF])
            self._torn = False


class Occupied(LogSettingError):
    """A file cannot become a log file at this moment, but may be able to a moment later."""


class LogFile:
    """A file that lines are appended to.

    Its inode is claimed (Invariant 1). So a client cannot lock the log file, as that lock would be lost when
    the log file is closed. And a file that is locked cannot become the log file.

    :param claim: the claim on the inode, with the descriptor to write to.
    :ivar claim: see the parameter.
    :ivar users: how many outputs on a slow file system write to it. They share it if they lead to one inode.
    :ivar is_closing: whether it is about to be closed, so that no further output can use it.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.users = 0
        self.is_closing = False
        claim.holder = self

    def __str__(self) -> str:
        return "the daemon itself, as its log"

    def write(self, record: logging.LogRecord) -> None:
        """Write a line. If the disk is full, the line is lost.

        :param record: the message.
        """
        with suppress(OSError):
            os.write(self.claim.fd, line_of(record))

    @classmethod
    def open(cls, path: str, inodes: Inodes, *, make_directory: bool = False) -> "LogFile":
        """Open a log file, or return the one that is open already.

        :param path: the absolute path of the file.
        :param inodes: the registry of inodes. ``Inodes.close`` with the claim of the log file closes it.
        :param make_directory: whether to make the directory of the file, and those above it.
        :returns: the log file.
        :raises LogSettingError: the file cannot be opened, or is locked.
        :raises Occupied: another thread has claimed its inode for a moment.
        """
        # O_NONBLOCK: opening a named pipe that nobody reads must fail, not wait (fifo(7)).
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK
        if make_directory:
            with suppress(OSError):
                make_directories(os.path.dirname(path), _DIRECTORY_MODE)
        try:
            return cls(inodes.open_pinned(path, flags, None, lockable=False))
        except Claimed as claimed:
            holder = claimed.claim.holder
            if isinstance(holder, LogFile):
                return holder
            if holder is None:
                raise Occupied(f"failed to open {path}: it is being opened or removed", errno.EBUSY) from None
            message = f"failed to open {path}: it is held as a lock"
            raise LogSettingError(message, errno.EBUSY) from None
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None) or errno.EINVAL
            raise LogSettingError(f"failed to open {path}: {os.strerror(number)}", number) from None


class _Datagrams:
    """Sends messages to a socket that may be missing for some time, because its service restarts."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def send(self, data: bytes) -> None:
        with suppress(OSError):
            self._socket.sendto(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)


class Journal:
    """systemd's journal, by its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).

    If a message has an attribute ``fields``, its items become further fields in the journal.
    """

    def __init__(self) -> None:
        self._datagrams = _Datagrams(JOURNAL_SOCKET)

    def write(self, record: logging.LogRecord) -> None:
        """Send a message with its fields.

        :param record: the message.
        """
        fields = {
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
        message = _journal_field("MESSAGE", text_of(record).encode())
        others = [_journal_field(name, _field_bytes(str(value))) for name, value in fields.items()]
        self._datagrams.send(b"".join([message, *others]))


def _journal_field(name: str, data: bytes) -> bytes:
    key = name.encode()
    if b"\n" in data:
        return key + b"\n" + _LENGTH.pack(len(data)) + data + b"\n"
    return key + b"=" + data + b"\n"


def _field_bytes(value: str) -> bytes:
    """Return the value of a field: the very bytes of a name, so that ``journalctl FIELD=VALUE`` finds it.

    The end of a name that is too long is left out.
    """
    try:
        data = value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        data = value.encode(errors="backslashreplace")
    excess = len(data) - _FIELD_MAX
    return data if excess <= 0 else data[:_FIELD_MAX] + b"[... %d more bytes]" % excess


class Syslog:
    """syslog.

    :param name: the name that the messages have there.
    """

    def __init__(self, name: str) -> None:
        self._name = printable(name)
        self._datagrams = _Datagrams(_SYSLOG_SOCKET)

    def write(self, record: logging.LogRecord) -> None:
        """Send a message, in the format of syslog(3).

        :param record: the message.
        """
        priority = _FACILITY_DAEMON * 8 + _PRIORITIES[level_of(record)]
        local = time.localtime(record.created)
        when = f"{_MONTHS[local.tm_mon - 1]} {local.tm_mday:2} {_clock(local)}"
        message = f"<{priority}>{when} {self._name}[{record.process}]: {text_of(record)}"
        self._datagrams.send(message.encode())


def open_sink(output: Output) -> Sink:
    """Open the sink of an output that is not a file.

    :param output: the output.
    :returns: the sink.
    :raises LogSettingError: no socket can be opened.
    """
    try:
        match output.destination:
            case "syslog":
                return Syslog(output.name or "")
            case "journald":
                return Journal()
    except OSError as error:
        raise LogSettingError(f"failed to open {output.destination}: {error.strerror}", error.errno) from None
    return StandardError()
