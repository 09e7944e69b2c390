"""The log: passes the messages of the daemon to the outputs that are set.

It uses Python's ``logging``. A filter is applied by setting the level of the loggers that it matches. So a
message that no output wants costs one look-up, with or without filters.
"""

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import zip_longest
from typing import Any, Final

from lockd.daemon import events
from lockd.daemon.log.settings import (
    Level,
    LogSettingError,
    LogSettings,
    Output,
    parse_filters,
    parse_outputs,
)
from lockd.daemon.log.sinks import STANDARD_ERROR, LogFile, Sink, level_of, open_sink
from lockd.daemon.log.slow_file import SlowLogFile
from lockd.daemon.slow_calls import SlowCalls
from lockd.daemon.tasks import Tasks
from lockd.engines.files.claims import Claimed
from lockd.engines.files.inodes import Inodes
from lockd.engines.files.slow_mounts import SlowMounts
from lockd.linux.descriptors import target_of

_LEVELS: Final = {
    Level.DEBUG: logging.DEBUG,
    Level.INFO: logging.INFO,
    Level.WARNING: logging.WARNING,
    Level.ERROR: logging.ERROR,
}

_LIBVIRT_NAMES: Final = {
    "lockd.locks": "locking.lock_daemon util.lockspace",
    "lockd.daemon": "locking.lock_daemon",
    "lockd.daemon.programs.admin_program": "admin.admin_server daemon.admin",
    "lockd.daemon.reactor": "util.event",
    "lockd.daemon.server": "rpc.netserver",
    "lockd.daemon.session": "rpc.netserverclient rpc.netmessage rpc.netsocket",
    "lockd.daemon.systemd": "util.systemd",
    "lockd.wire": "rpc.netmessage",
}
"""virtlockd's names for the parts of the daemon, by the package or module of lockd. So filters that were
written for virtlockd keep working. If a module has no entry, that of the nearest package above it applies."""

_EARLY_MAX: Final = 1000
"""How many messages are kept until the outputs are open. Further ones are dropped."""

_logger = logging.getLogger(__name__)


class Log:
    """Passes each message to the outputs whose level it has.

    Messages that are logged before ``open`` is called are kept, and passed on by ``open``.

    :param settings: the settings at the start.
    :param inodes: the registry of inodes, in which the log files are claimed.
    :ivar filters: the levels for parts of the daemon. The first filter that matches a part applies to it.
    :ivar outputs: the destinations of the messages.
    """

    def __init__(self, settings: LogSettings, inodes: Inodes) -> None:
        self.filters = settings.filters
        self.outputs = settings.outputs
        self._level = settings.level
        self._default_output = settings.default_output
        self._inodes = inodes
        self._sinks: list[tuple[Level, Sink]] = []
        self._files: set[LogFile] = set()
        self._workers: tuple[SlowCalls, Tasks] | None = None
        self._early: list[logging.LogRecord] | None = []
        self._changed: dict[str, str] = {}
        logging.getLogger().addHandler(_ToLog(self))
        self._set_levels()

    def write(self, record: logging.LogRecord) -> None:
        """Pass a message to the outputs. This never raises an exception.

        Messages are logged where an exception was just caught, so that the daemon goes on and keeps its locks.
        An exception from here would end it after all.

        :param record: the message. If an output cannot write it, it gets a message that says so.
        """
        if self._early is not None:
            if len(self._early) < _EARLY_MAX:
                self._early.append(record)
            return
        level = level_of(record)
        for threshold, sink in self._sinks:
            if level >= threshold:
                try:
                    sink.write(record)
                except Exception as error:
                    with suppress(Exception):
                        sink.write(_substitute(record, error))

    # Settings

    def open(self) -> None:
        """Open the outputs that were set at the start.

        :raises LogSettingError: the file of an output cannot be opened.
        """
        self._open(self.outputs)

    def write_slow_files(self, slow_calls: SlowCalls, tasks: Tasks) -> None:
        """Begin to write the log files on slow file systems. Until then their messages are kept.

        :param slow_calls: runs the system calls in worker threads.
        :param tasks: runs the tasks that wait for them.
        """
        self._workers = slow_calls, tasks
        for file in _slow_files(self._sinks):
            self._start(file)

    async def written(self) -> None:
        """Wait until all messages are written, also those for slow file systems."""
        for file in _slow_files(self._sinks):
            await file.written()

    def set_filters(self, text: str) -> None:
        """Set the filters. They stay in force until the daemon ends, also after a live upgrade.

        :param text: the filters, as for ``parse_filters``.
        :raises LogSettingError: the text is invalid. Nothing has changed.
        """
        self.filters = parse_filters(text)
        self._changed["filters"] = text
        self._set_levels()

    def set_outputs(self, text: str) -> None:
        """Set the outputs. They stay in force until the daemon ends, also after a live upgrade.

        :param text: the outputs, as for ``parse_outputs``. If there are none, the default output is set.
        :raises LogSettingError: the text is invalid, or a file cannot be opened. Nothing has changed.
        """
        self._open(parse_outputs(text) or [self._default_output])
        self._changed["outputs"] = text

    def _open(self, outputs: list[Output]) -> None:
        sinks: list[tuple[Level, Sink]] = []
        mounts = _mounts()
        try:
            for output in outputs:
                sinks.append((output.level, self._open_sink(output, mounts)))  # noqa: PERF401 - one may fail
        except BaseException:
            self._close_files_but(self._files, among=_files(sinks))
            raise
        self.outputs = outputs
        before, self._sinks = self._sinks, sinks
        for file in _slow_files(before):
            file.retire()
        for file in _slow_files(sinks):
            self._start(file)
        self._close_files_but(_files(sinks), among=self._files)
        self._files = _files(sinks)
        self._set_levels()
        early, self._early = self._early, None
        for record in early or ():
            self.write(record)

    def _open_sink(self, output: Output, mounts: SlowMounts | None) -> Sink:
        path = _file_of_standard_error() if output.destination == "stderr" else output.name
        if output.destination in {"file", "stderr"} and path is not None:
            make_directory = output == self._default_output
            mount = _slow_mount(mounts, path)
            if mount is not None:
                return SlowLogFile(path, mount, self._inodes, make_directory=make_directory)
            if output.destination == "file":
                file = LogFile.open(path, self._inodes, make_directory=make_directory)
                if not file.users:
                    return file
                # A worker thread writes to it, and may close it: its file system may hang, by another path of it
                # or as far as was known before.
                return SlowLogFile(path, "/", self._inodes, make_directory=make_directory)
        return open_sink(output)

    def _start(self, file: SlowLogFile) -> None:
        if self._workers is not None:
            file.start(*self._workers)

    def _close_files_but(self, kept: set[LogFile], *, among: set[LogFile]) -> None:
        for file in among - kept:
            if file.users:
                continue  # a worker thread writes to it, and closes it
            file.is_closing = True
            # This ends no lock (Invariant 1). The log has claimed the inode all the time, so nothing else in
            # this process has opened it or locked it.
            with suppress(OSError):
                self._inodes.close(file.claim)

    def _set_levels(self) -> None:
        threshold = min(output.level for output in self.outputs)
        root = logging.getLogger()
        root.setLevel(_LEVELS[max(self._level, threshold)])
        for name, logger in root.manager.loggerDict.items():
            if isinstance(logger, logging.Logger):
                logger.setLevel(_LEVELS[max(self._level_of(name), threshold)])
        events.look_again()

    def _level_of(self, name: str) -> Level:
        names = [name, *_libvirt_names(name)]
        for filter_ in self.filters:
            if any(map(filter_.matches, names)):
                return filter_.level
        return self._level

    # Hand-over

    def describe(self) -> dict[str, Any]:
        """Return what the next program has to know of the log: ``adopt`` takes it.

        :returns: a JSON object: the settings that were changed at run time, the descriptors of the log files and
            what identifies their inodes, and the lines that are not written yet, by the path of the file.
        """
        slow = _slow_files(self._sinks)
        claims = [file.claim for file in {*self._files, *(sink.file for sink in slow)} if file is not None]
        return {
            **self._changed,
            "files": [claim.fd for claim in claims],
            "identities": [claim.identity for claim in claims],
            "unwritten": {sink.path: sink.unwritten for sink in slow},
        }

    def adopt(self, document: dict[str, Any]) -> None:
        """Continue the log of the program before this one, after a live upgrade, and open the outputs.

        Settings that were not changed at run time come from the configuration of this program. If an output
        cannot be opened, messages go to standard error.

        :param document: what ``describe`` returned in the program before. From virtlockd it is empty.
        """
        mounts = _mounts()
        for fd, identity in zip_longest(document.get("files", ()), document.get("identities", ())):
            with suppress(OSError, Claimed):
                self._adopt_file(fd, identity, mounts)
        try:
            if "filters" in document:
                self.set_filters(document["filters"])
            if "outputs" in document:
                self.set_outputs(document["outputs"])
            else:
                self.open()
        except LogSettingError as error:
            self._open([Output(self._level, "stderr")])
            _logger.error("the log goes to standard error: %s", error)
        for file in _slow_files(self._sinks):
            file.resume(document.get("unwritten", {}).get(file.path, ""))

    def _adopt_file(self, fd: int, identity: list[int] | None, mounts: SlowMounts | None) -> None:
        os.set_inheritable(fd, False)
        path = target_of(fd)
        mount = _slow_mount(mounts, path)
        # If the identity is known, no call is made that may wait for a file server.
        file = LogFile(self._inodes.adopt(fd, None, tuple(identity) if identity else None))
        if mount is None:
            self._files.add(file)
            return
        # It is closed in a worker thread, unless an output writes to it by then.
        file.users = 1
        slow = SlowLogFile(path, mount, self._inodes, file=file)
        self._start(slow)
        slow.retire()


def _mounts() -> SlowMounts | None:
    """Return which paths may block; None if that cannot be known now."""
    try:
        return SlowMounts()
    except OSError:
        return None


def _slow_mount(mounts: SlowMounts | None, path: str) -> str | None:
    """Return the mount point of a file's slow file system. If nothing is known, each file may be on a slow one."""
    # The slash has the last component followed too: it may be a symbolic link.
    return "/" if mounts is None else mounts.slow_mount(f"{path}/")


class _ToLog(logging.Handler):
    """A handler of ``logging`` that passes messages to a log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write(record)


def _substitute(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """Return a message in place of one that cannot be written. It has no text of a peer."""
    text = f"a message of line {record.lineno} cannot be written: {type(error).__name__}"
    return logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, text, None, None)


def _files(sinks: Iterable[tuple[Level, Sink]]) -> set[LogFile]:
    return {sink for _, sink in sinks if isinstance(sink, LogFile)}


def _file_of_standard_error() -> str | None:
    """Return the path of the file that standard error goes to; None if it is no file, or has no name any more."""
    try:
        target = target_of(STANDARD_ERROR)
    except OSError:
        return None
    return target if target.startswith("/") and not target.endswith(" (deleted)") else None


def _libvirt_names(name: str) -> list[str]:
    while name:
        if name in _LIBVIRT_NAMES:
            return _LIBVIRT_NAMES[name].split()
        name = name.rpartition(".")[0]
    return []


def _slow_files(sinks: Iterable[tuple[Level, Sink]]) -> list[SlowLogFile]:
    return [sink for _, sink in sinks if isinstance(sink, SlowLogFile)]
