"""Hand-over: replacing the program without losing a lock, a client or a call (exec-restart).

POSIX locks and descriptors belong to the process and survive execve(2). So the daemon writes down what it is,
and executes the command that it was started with, which goes on from there: the new version of itself, or
virtlockd, which reads the same state. Where anything is wrong before that, it goes on as if not asked.
"""

import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import trio

from lockd.daemon import systemd
from lockd.daemon.daemon import Daemon
from lockd.daemon.failure import Failure
from lockd.daemon.start.options import Options
from lockd.daemon.upgrade import state_file
from lockd.daemon.upgrade.leftovers import unknown_files
from lockd.daemon.upgrade.state import describe, descriptors, unfinished
from lockd.libvirt.lock_daemons import LockDaemon, identify
from lockd.libvirt.state_document import VIRTLOCKD_SIZE_MAX

# A new process closes its copies of all descriptors, and that of a file on a hung server does not return before the
# server does. A parent that used vfork(2) would wait as long, and all clients with it.
subprocess._USE_VFORK = False  # type: ignore[misc]  # Python documents it as a switch

_CHECK_SECONDS: Final = 30
_MESSAGE_MAX: Final = 300

_VIRTLOCKD_PATIENCE: Final = 5.0
"""Seconds to wait for a moment at which no client is in the middle of a call, which virtlockd could not go on with."""

_IGNORED = (signal.SIGUSR1, signal.SIGHUP)
"""The signals that would end the next program before it handles them."""

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
            await self._hand_over()
        except Failure as failure:
            _logger.error("the daemon goes on as it is, with all locks: %s", failure)
        except Exception:
            _logger.exception("the daemon goes on as it is, with all locks, for a fault of its own")
        finally:
            self._under_way = False

    async def _hand_over(self) -> None:
        """Replace the program as soon as nothing is under way that the next one could not go on with.

        :raises Failure: that cannot be.
        """
        deadline = trio.current_time() + _VIRTLOCKD_PATIENCE
        while True:
            checked = trio.current_time()
            successor = await self._check_program()
            async with self._daemon.slow_calls.paused():
                if trio.current_time() > checked + _CHECK_SECONDS:
                    continue  # that took its time; who knows what the program is now
                obstacle = unfinished(self._daemon) if successor is LockDaemon.VIRTLOCKD else None
                if obstacle is None:
                    self._replace_program(successor)
            if trio.current_time() > deadline:
                raise Failure(f"virtlockd cannot take over now, as {obstacle}; try again later")

    async def _check_program(self) -> LockDaemon:
        """See that the program can run at all, and knows the arguments; return which daemon it is.

        It may be a new version that does not even start.

        :raises Failure: it does not, or is no lock daemon.
        """
        command = [self._program, *self._arguments[1:], "--version"]
        with trio.move_on_after(_CHECK_SECONDS):
            try:
                result = await trio.run_process(
                    command, capture_stdout=True, capture_stderr=True, check=False
                )
            except OSError as error:
                raise Failure(f"{self._program}: cannot be run: {error.strerror}") from None
            if result.returncode != 0:
                said = result.stderr.decode(errors="replace").strip()[-_MESSAGE_MAX:]
                said = " ".join(said.split())
                raise Failure(f"{self._program} --version ended with {result.returncode}: {said}")
            successor = identify(result.stdout)
            if successor is not None:
                return successor
            raise Failure(f"{self._program}: is no lock daemon, going by what it says to --version")
        raise Failure(f"{self._program} --version did not end within {_CHECK_SECONDS} seconds")

    def _replace_program(self, successor: LockDaemon) -> NoReturn:
        """Write the state and execute the program; returns only by raising.

        Nothing is awaited in here, so nothing changes meanwhile: no call is begun, none is half done. Those that
        a worker thread would have begun next are in the state, to be put to the next program.

        :raises Failure: the state cannot be written, or the program not executed.
        """
        inherited: list[int] = []
        # A collection would only look at the state while it grows, several times.
        gc.disable()
        systemd.notify_reloading()
        try:
            size_max = VIRTLOCKD_SIZE_MAX if successor is LockDaemon.VIRTLOCKD else None
            state_file.write(self._file, describe(self._daemon), size_max)
            inherited = descriptors(self._daemon, successor)
            if successor is LockDaemon.LOCKD:
                inherited += unknown_files(inherited)
            for fd in inherited:
                os.set_inheritable(fd, True)
            if successor is LockDaemon.VIRTLOCKD:
                systemd.stop_watchdog()
            handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
            try:
                os.execv(self._program, self._arguments)
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        except OSError as error:
            raise Failure(f"{self._program}: cannot be executed: {error.strerror}") from None
        finally:
            for fd in inherited:
                with suppress(OSError):
                    os.set_inheritable(fd, False)
            with suppress(OSError):
                self._file.unlink()
            gc.enable()
            systemd.start_watchdog()
            systemd.notify("READY=1")


def own_command(options: Options) -> tuple[str, list[str]]:
    """Return the command that this process was started with, as it can be given in any directory."""
    program = shutil.which(sys.argv[0])
    if program is None:
        # By an interpreter: python -m ...
        interpreter = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv[1:])]
        return sys.executable, [*interpreter, *options.arguments()]
    program = str(Path(program).absolute())
    return program, [program, *options.arguments()]
