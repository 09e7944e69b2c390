"""Hand-over: replacing the program without losing a lock, a client or a call (exec-restart).

POSIX locks and descriptors belong to the process and survive execve(2). So the daemon writes down what it is,
and executes the command that it was started with, which goes on from there: the new version of itself, or
another daemon that reads virtlockd's state. Where anything is wrong before that, it goes on as if not asked.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio

from lockd.daemon import state_file, systemd
from lockd.daemon.daemon import Daemon
from lockd.daemon.failure import Failure
from lockd.daemon.state import describe, descriptors

# A new process closes its copies of all descriptors, and that of a file on a hung server does not return before the
# server does. A parent that used vfork(2) would wait as long, and all clients with it.
subprocess._USE_VFORK = False  # type: ignore[misc]  # Python documents it as a switch

_CHECK_SECONDS: Final = 30
_MESSAGE_MAX: Final = 300

_logger = logging.getLogger(__name__)


class HandOver:
    """Replaces the program when it is told to.

    :param command: what to execute: the program's path, and the arguments that it gets, its own name first.
    """

    def __init__(self, daemon: Daemon, command: tuple[str, list[str]], file: Path) -> None:
        self._daemon = daemon
        self._program, self._arguments = command
        self._file = file
        self._under_way = False

    async def run(self) -> None:
        """Replace the program, or log why that is not possible."""
        if self._under_way:
            return
        self._under_way = True
        try:
            await self._check_program()
            async with self._daemon.slow_calls.paused():
                self._replace_program()
        except Failure as failure:
            _logger.error("the daemon goes on as it is, with all locks: %s", failure)
        finally:
            self._under_way = False

    async def _check_program(self) -> None:
        """See that the program can run at all: it may be a new version that does not even start.

        :raises Failure: it does not.
        """
        with trio.move_on_after(_CHECK_SECONDS):
            try:
                result = await trio.run_process(
                    [self._program, "--version"], capture_stdout=True, capture_stderr=True, check=False
                )
            except OSError as error:
                raise Failure(f"{self._program}: cannot be run: {error.strerror}") from None
            if result.returncode != 0:
                said = result.stderr.decode(errors="replace").strip()[-_MESSAGE_MAX:]
                raise Failure(f"{self._program} --version ended with {result.returncode}: {said}")
            return
        raise Failure(f"{self._program} --version did not end within {_CHECK_SECONDS} seconds")

    def _replace_program(self) -> None:
        """Write the state and execute the program; returns only by raising.

        Nothing is awaited in here, so nothing changes meanwhile: no call is begun, none is half done. Those that
        a worker thread would have begun next are in the state, to be put to the next program.

        :raises Failure: the state cannot be written, or the program not executed.
        """
        systemd.notify_reloading()
        state_file.write(self._file, describe(self._daemon))
        inherited = descriptors(self._daemon)
        unknown = _unknown_files(inherited)
        for fd in (*inherited, *unknown):
            os.set_inheritable(fd, True)
        # Until the new program handles it, a second one would end the process.
        handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            os.execv(self._program, self._arguments)
        except OSError as error:
            signal.signal(signal.SIGUSR1, handler)
            for fd in (*inherited, *unknown):
                os.set_inheritable(fd, False)
            self._file.unlink(missing_ok=True)
            systemd.notify("READY=1")
            raise Failure(f"{self._program}: cannot be executed: {error.strerror}") from None


def own_command() -> tuple[str, list[str]]:
    """Return the command that this process was started with.

    The program is looked up again at every hand-over: a package may have replaced it meanwhile.
    """
    program = shutil.which(sys.argv[0])
    if program is None:
        return sys.executable, list(sys.orig_argv)
    return str(Path(program).absolute()), list(sys.argv)


def _unknown_files(known: list[int]) -> list[int]:
    """Return the open files that nobody has told of: what worker threads have just opened.

    They must survive the exec: closing one might end a lock on the same inode, and may block.
    """
    unknown = []
    for name in set(os.listdir("/proc/self/fd")).difference(map(str, known)):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith("/") and not target.startswith(("/proc/", "/dev/null", "/dev/pts/")):
            unknown.append(int(name))
    return unknown
