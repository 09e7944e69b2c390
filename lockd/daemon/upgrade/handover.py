"""Hand-over: a live upgrade replaces the program without losing a lock, a client or a call.

POSIX locks and descriptors belong to the process and survive execve(2). So the daemon writes its state to a
file, and executes the command that it was started with. The next program reads the state and continues. It is
a new version of lockd, or virtlockd, which reads the same file. If anything fails before the exec, the daemon
continues unchanged.
"""

import gc
import logging
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import trio

from lockd.daemon import other_programs, systemd
from lockd.daemon.daemon import Daemon
from lockd.daemon.failure import Failure
from lockd.daemon.start.options import Options
from lockd.daemon.upgrade import state_file
from lockd.daemon.upgrade.leftovers import unknown_files
from lockd.daemon.upgrade.state import describe, descriptors, unfinished
from lockd.libvirt.lock_daemons import LockDaemon, identify
from lockd.libvirt.state_document import VIRTLOCKD_SIZE_MAX

_CHECK_SECONDS: Final = 30
"""How many seconds the check of the next program may take, and for how many seconds its result is valid."""

_MESSAGE_MAX: Final = 300
"""How many characters of the next program's error output are logged."""

_VIRTLOCKD_PATIENCE: Final = 5.0
"""How many seconds to wait for a moment when no client is in the middle of a call. virtlockd could not
continue such a call."""

_IGNORED = (signal.SIGUSR1, signal.SIGHUP)
"""The signals that would kill the next program before it handles them. They are ignored during the exec."""

_logger = logging.getLogger(__name__)


class HandOver:
    """Replaces the program of the daemon.

    :param daemon: the running daemon.
    :param command: the path of the next program, and its arguments. The first argument is its name.
    :param file: the path of the state file.
    """

    def __init__(self, daemon: Daemon, command: tuple[str, list[str]], file: Path) -> None:
        self._daemon = daemon
        self._program, self._arguments = command
        self._file = file
        self._under_way = False

    async def run(self) -> None:
        """Replace the program. If that is not possible, log the reason and return.

        If a replacement is under way already, this has no effect.
        """
        if self._under_way:
            return
        self._under_way = True
        try:
            await self._hand_over()
        except Failure as failure:
            _logger.error("the daemon goes on as it is, with all locks: %s", failure)
        except Exception:
            _logger.exception("the daemon goes on as it is, with all locks: an unexpected error")
        finally:
            self._under_way = False

    async def _hand_over(self) -> None:
        """Replace the program as soon as nothing is under way that the next program could not continue.

        :raises Failure: the program cannot be replaced.
        """
        deadline = trio.current_time() + _VIRTLOCKD_PATIENCE
        while True:
            checked = trio.current_time()
            successor = await self._check_program()
            async with self._daemon.slow_calls.paused():
                if trio.current_time() > checked + _CHECK_SECONDS:
                    continue  # the check is too old: the program may have changed since
                obstacle = unfinished(self._daemon) if successor is LockDaemon.VIRTLOCKD else None
                if obstacle is None:
                    self._replace_program(successor)
            if trio.current_time() > deadline:
                raise Failure(f"virtlockd cannot take over now, as {obstacle}; try again later")

    async def _check_program(self) -> LockDaemon:
        """Check that the next program starts and accepts the arguments, and return which daemon it is.

        It may be a broken new version.

        :raises Failure: it does not start, does not accept the arguments, or is not a lock daemon.
        """
        command = [self._program, *self._arguments[1:], "--version"]
        try:
            result = await other_programs.run(command, _CHECK_SECONDS)
        except OSError as error:
            raise Failure(f"{self._program}: cannot be run: {error.strerror}") from None
        except RuntimeError as error:
            raise Failure(f"{self._program}: cannot be run: {error}") from None
        if result is None:
            raise Failure(f"{self._program} --version did not end within {_CHECK_SECONDS} seconds")
        if result.returncode != 0:
            said = result.stderr.decode(errors="replace").strip()[-_MESSAGE_MAX:]
            said = " ".join(said.split())
            raise Failure(f"{self._program} --version ended with {result.returncode}: {said}")
        successor = identify(result.stdout)
        if successor is None:
            raise Failure(f"{self._program}: is no lock daemon, according to its --version")
        return successor

    def _replace_program(self, successor: LockDaemon) -> NoReturn:
        """Write the state and execute the next program. This never returns.

        Nothing is awaited in here, and no worker thread is busy. So no call begins or is half done meanwhile.
        Calls that wait for a worker thread are in the state, and the next program carries them out.

        :raises Failure: the state cannot be written, or the program cannot be executed.
        """
        inherited: list[int] = []
        # While the state grows, the garbage collector would go through all of it several times, and find
        # nothing.
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
            systemd.notify_surely("READY=1")


def own_command(options: Options) -> tuple[str, list[str]]:
    """Return the command that this process was started with. It is valid in any working directory.

    :param options: the options of the command line.
    :returns: the path of the program, and its arguments. The first argument is its name.
    """
    program = shutil.which(sys.argv[0])
    if program is None:
        # The daemon was started as ``python -m ...``.
        interpreter = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv[1:])]
        return sys.executable, [*interpreter, *options.arguments()]
    program = str(Path(program).absolute())
    return program, [program, *options.arguments()]
