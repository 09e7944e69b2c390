"""A log file on a file system that may hang: behind a network, or behind another process.

Opening the file, writing to it and closing it may each take for ever. So worker threads do it, and no client waits for
them (Invariant 3). A log file on a local file system needs no thread: with a second thread in the process, every
system call of the first one takes longer.
"""

import logging
import os
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Final

import trio

from lockd.daemon.log.settings import LogSettingError
from lockd.daemon.log.sinks import LogFile, Occupied, StandardError, line_of
from lockd.daemon.slow_calls import SlowCalls
from lockd.daemon.tasks import Tasks
from lockd.engines.files.inodes import Inodes

_LINES_MAX: Final = 1000
"""How many lines wait for the file system. Further ones are lost, and counted."""

_LINES_AT_ONCE: Final = 100
"""How many lines one call of write(2) has at most."""

_RETRY_SECONDS: Final = 0.2
"""The pause before a step is tried again, if there was no thread to do it, or the file was just being opened or closed
for another output."""

_logger = logging.getLogger(__name__)


class SlowLogFile:
    """Writes lines to a log file in a task that waits for worker threads. Its methods do not wait.

    If the file cannot be opened, that is logged, and the lines go to standard error.

    :param path: the absolute path of the file.
    :param mount: the mount point of its file system.
    :param inodes: the registry of inodes, in which the file is claimed.
    :param make_directory: whether to make the directory of the file.
    :param file: the open file, if it is open already.
    :ivar path: the path of the file.
    :ivar file: the open file; None if it is not open.
    """

    def __init__(
        self,
        path: str,
        mount: str,
        inodes: Inodes,
        *,
        make_directory: bool = False,
        file: LogFile | None = None,
    ) -> None:
        self.path = path
        self.file = file
        self._mount = mount
        self._inodes = inodes
        self._make_directory = make_directory
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._instead: StandardError | None = None
        self._retired = False
        self._workers: tuple[SlowCalls, Tasks] | None = None
        self._idle: trio.Event | None = None

    def write(self, record: logging.LogRecord) -> None:
        """Have a line written, or count it as lost if too many lines wait already.

        :param record: the message.
        """
        if self._instead is not None:
            self._instead.write(record)
        elif len(self._lines) < _LINES_MAX:
            self._lines.append(line_of(record))
            self._wake()
        else:
            self._lost += 1
            if self._lost == 1:
                # For the other outputs. Here it is lost as well, but counted only.
                _logger.error(
                    "%s: messages are lost, as the file system %s does not answer", self.path, self._mount
                )

    @property
    def unwritten(self) -> str:
        """The lines that are not written yet. A live upgrade passes them to the next program."""
        return b"".join(self._lines).decode()

    def resume(self, unwritten: str) -> None:
        """Continue the work of the program before this one, after a live upgrade.

        :param unwritten: the lines that it has not written.
        """
        self._lines.extendleft(reversed(unwritten.encode().splitlines(keepends=True)))

    def start(self, slow_calls: SlowCalls, tasks: Tasks) -> None:
        """Begin to open the file and to write the lines.

        :param slow_calls: runs the system calls in worker threads.
        :param tasks: runs the task that waits for them.
        """
        self._workers = slow_calls, tasks
        self._wake()

    def retire(self) -> None:
        """Close the file as soon as the lines that wait are written, unless another output writes to it too."""
        self._retired = True
        self._wake()

    async def written(self) -> None:
        """Wait until no line waits to be written."""
        while self._idle is not None:
            await self._idle.wait()

    def _wake(self) -> None:
        if self._workers is None or self._idle is not None:
            return
        slow_calls, tasks = self._workers
        # At the end of the daemon no task can begin any more.
        with suppress(RuntimeError):
            tasks.start(self._work, slow_calls)
            self._idle = trio.Event()

    async def _work(self, slow_calls: SlowCalls) -> None:
        try:
            while await self._step(slow_calls):
                pass
        finally:
            if self._idle is not None:
                self._idle.set()
            self._idle = None

    async def _step(self, slow_calls: SlowCalls) -> bool:
        """Do what comes next. Return whether there was anything to do."""
        try:
            if self._instead is not None:
                return False
            if self._retired and not self._lines:
                await self._close(slow_calls)
                return False
            if self.file is None:
                await self._open(slow_calls)
            elif self._lines:
                await self._write(slow_calls, self.file)
            else:
                return False
        except Exception:
            # There is no thread, for example. That is not logged: each message is one more line for this file.
            await trio.sleep(_RETRY_SECONDS)
        return True

    async def _open(self, slow_calls: SlowCalls) -> None:
        try:
            file = await slow_calls.run(
                self._mount, LogFile.open, self.path, self._inodes, make_directory=self._make_directory
            )
        except Occupied:
            await trio.sleep(_RETRY_SECONDS)
            return
        except LogSettingError as error:
            self._instead = StandardError()
            _logger.error("messages for this log file go to standard error: %s", error)
            while self._lines:
                self._instead.write_line(self._lines.popleft())
            return
        if file.is_closing:
            await trio.sleep(_RETRY_SECONDS)
        else:
            file.users += 1
            self.file = file

    async def _write(self, slow_calls: SlowCalls, file: LogFile) -> None:
        # They stay in the list until they are written: a live upgrade may come first (``unwritten``).
        lines = list(islice(self._lines, _LINES_AT_ONCE))
        lost = self._lost
        try:
            await slow_calls.run(self._mount, _write_all, file.claim.fd, b"".join(lines))
        except OSError:
            self._lost += len(lines)
        else:
            self._lost -= lost
            if lost:
                _logger.error("%s: %d messages were lost", self.path, lost)
        for _ in lines:
            self._lines.popleft()

    async def _close(self, slow_calls: SlowCalls) -> None:
        if self.file is None:
            return
        file, self.file = self.file, None
        file.users -= 1
        if not file.users:
            file.is_closing = True
            # This ends no lock (Invariant 1). The log has claimed the inode all the time, so nothing else in this
            # process has opened it or locked it.
            with suppress(OSError):
                await slow_calls.run_surely(self._mount, self._inodes.close, file.claim)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
