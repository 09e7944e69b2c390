"""The command ``virtlockd``: it starts the daemon, or continues it after a live upgrade."""

import linecache
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from lockd.daemon import systemd
from lockd.daemon.configured_lockspaces import make_lockspaces
from lockd.daemon.daemon import Daemon
from lockd.daemon.failure import Failure, reason
from lockd.daemon.log.log import Log
from lockd.daemon.log.settings import LogSettingError, settings_at_start
from lockd.daemon.rate_limit import faults
from lockd.daemon.repeated_start import Start
from lockd.daemon.start import pidfile
from lockd.daemon.start.background import go_into_background
from lockd.daemon.start.config import Config, read_config
from lockd.daemon.start.directories import make_own_directories
from lockd.daemon.start.options import Options, parse_options
from lockd.daemon.start.sockets import Listeners, listen
from lockd.daemon.tasks import Tasks, go_on
from lockd.daemon.upgrade import salvage, state_file
from lockd.daemon.upgrade.adoption import adopt, go_on_adopting
from lockd.daemon.upgrade.handover import HandOver, own_command
from lockd.daemon.upgrade.leftovers import claim_orphans, locate_devices
from lockd.daemon.upgrade.sockets import adopt_listeners, adopt_pid_file
from lockd.engines.files.inodes import Inodes
from lockd.libvirt.addresses import Addresses, HomeUnknown, own_addresses, own_log_directory
from lockd.linux.printable import printable

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)

_LAST_MESSAGES_SECONDS: Final = 1.0
"""How many seconds the end of the daemon waits for a log file whose file system does not answer."""

_logger = logging.getLogger(__name__)


def main(start: Start | None = None) -> None:
    """Run the daemon with the arguments of the command line.

    :param start: the start of the program, if it can be repeated.
    :raises SystemExit: the daemon cannot start; the status is 1, and the message says why.
    """
    _leave_source_files_closed()
    try:
        addresses = own_addresses()
        _run(parse_options(sys.argv[1:], addresses), addresses, start or Start([]))
    except (Failure, HomeUnknown) as failure:
        sys.exit(f"virtlockd: {printable(str(failure))}")


def _leave_source_files_closed() -> None:
    """Have tracebacks without lines of source: opening and closing a file ends all locks on it (Invariant 1)."""
    linecache.updatecache = lambda *_: []
    # By default the interpreter itself prints what is raised where nobody can catch it, with lines of source.
    sys.unraisablehook = _log_unraisable


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    if faults.allows():
        _logger.error(
            "an exception was raised where nobody can catch it, in %r",
            unraisable.object,
            exc_info=unraisable.exc_value,
        )


def _run(options: Options, addresses: Addresses, start: Start) -> None:
    # This depends on the current directory, which changes when the daemon goes into the background.
    command = own_command(options)
    state = _read_state(addresses.state_file, start)
    inodes = Inodes()
    config, log = _config_and_log(options, addresses, inodes, must_go_on=state is not None)
    _allow_many_descriptors()
    hand_over = partial(HandOver, command=command, file=addresses.state_file)

    def begin_to_take_over() -> None:
        start.take_over()
        if state is not None:
            _remove(addresses.state_file)

    def run(pid_file: int | None, listeners: Listeners, started: Callable[[], None]) -> None:
        try:
            trio.run(
                _serve,
                config,
                log,
                inodes,
                options,
                listeners,
                pid_file,
                state,
                begin_to_take_over,
                hand_over,
                started,
            )
        finally:
            if not start.can_be_repeated and not pidfile.is_of_another(options.pid_file, pid_file):
                _remove(*listeners.made, options.pid_file)

    if state is not None:
        # The locks belong to this process, and a child would not have them (fork(2)). So the process does not
        # go into the background here.
        run(adopt_pid_file(state, options.pid_file), adopt_listeners(state, addresses), _nothing_to_do)
        return
    _open_log(log)
    if not options.daemon:
        run(*_begin(options, addresses), _nothing_to_do)
        return
    background = go_into_background()
    try:
        run(*_begin(options, addresses), background.started)
    except Exception as error:
        why = reason(error)
        if why is None or not background.is_awaited:
            raise
        background.failed(printable(why))
        sys.exit(1)


def _read_state(path: Path, start: Start) -> dict[str, Any] | None:
    """Return the state of the program before, if there was one.

    :raises OSError: that cannot be told now, and the start can be repeated.
    :raises MemoryError: likewise.
    """
    try:
        return state_file.read(path)
    except (OSError, MemoryError) as error:
        if start.can_be_repeated:
            raise
        _logger.error("%s: whether it is the state of the daemon before cannot be told: %s", path, error)
        return None


def _begin(options: Options, addresses: Addresses) -> tuple[int, Listeners]:
    """Take the pid file and the sockets, and return them."""
    make_own_directories(addresses, options.pid_file)
    pid_file = pidfile.acquire(options.pid_file)
    try:
        return pid_file, _make_listeners(addresses)
    except BaseException:
        _remove(options.pid_file)
        raise


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _config_and_log(
    options: Options, addresses: Addresses, inodes: Inodes, *, must_go_on: bool
) -> tuple[Config, Log]:
    """Read the configuration and make the log.

    :param must_go_on: whether this continues a daemon with locks. It then uses the defaults if the
        configuration is wrong.
    """
    file = options.config or addresses.config_file

    def log_of(config: Config, environment: Mapping[str, str]) -> Log:
        settings = settings_at_start(
            config,
            file,
            environment,
            _log_directory,
            verbose=options.verbose,
            background=options.daemon,
        )
        return Log(settings, inodes)

    try:
        config = read_config(file, required=options.config is not None)
        return config, log_of(config, os.environ)
    except Failure as failure:
        if not must_go_on:
            raise
        log = log_of(Config(), {})
        _logger.error("the daemon goes on with the default configuration: %s", failure)
        return Config(), log


def _open_log(log: Log) -> None:
    try:
        log.open()
    except LogSettingError as error:
        raise Failure(f"log_outputs: {error}") from None


async def _serve(
    config: Config,
    log: Log,
    inodes: Inodes,
    options: Options,
    listeners: Listeners,
    pid_file: int | None,
    state: dict[str, Any] | None,
    begin_to_take_over: Callable[[], None],
    make_hand_over: Callable[[Daemon], HandOver],
    started: Callable[[], None],
) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            daemon = Daemon(config, log, inodes, options.timeout, pid_file, nursery)
            tasks = Tasks(nursery)
            nursery.start_soon(go_on, _handle_signals, signals, daemon, make_hand_over(daemon), tasks)
            # Now trio has begun to watch what it watches itself. If that failed, the start can still be repeated.
            await trio.lowlevel.checkpoint()
            begin_to_take_over()
            if state is None:
                await claim_orphans(inodes, daemon.mounts.is_local)
                tasks.start(locate_devices, daemon.slow_calls, inodes)
            else:
                # There is no way back: an exception would end the daemon, and all locks with it.
                with salvage.part("the rest of the state"):
                    adopt(daemon, state)
                state.clear()  # to free its memory: it may be large
                go_on_adopting(daemon, tasks)
            make_lockspaces(config.lockspaces, daemon.locker, tasks)
            started()
            await daemon.serve(listeners)
            with trio.move_on_after(_LAST_MESSAGES_SECONDS):
                await log.written()
            nursery.cancel_scope.cancel()


async def _handle_signals(
    signals: AsyncIterator[int], daemon: Daemon, hand_over: HandOver, tasks: Tasks
) -> None:
    async for number in signals:
        match number:
            case signal.SIGUSR1:
                tasks.start(hand_over.run)
            case signal.SIGHUP:
                _logger.info("SIGHUP is ignored: the configuration is read anew after SIGUSR1")
            case _:
                _logger.info("%s ends the daemon", signal.Signals(number).name)
                daemon.lifetime.stop()


def _make_listeners(addresses: Addresses) -> Listeners:
    """Return the sockets that systemd passed to this process, or make them if it passed none."""
    try:
        handed_over = systemd.activation_sockets(addresses)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Failure(f"systemd handed over sockets that cannot be used: {reason}") from None
    if handed_over:
        lock = handed_over.get(systemd.LOCK_SOCKET)
        if lock is None:
            raise Failure(f"systemd handed over no socket named {systemd.LOCK_SOCKET}")
        return Listeners(lock, handed_over.get(systemd.ADMIN_SOCKET), [])
    lock = listen(addresses.socket)
    try:
        admin = listen(addresses.admin_socket)
    except BaseException:
        _remove(addresses.socket)
        raise
    return Listeners(lock, admin, [addresses.socket, addresses.admin_socket])


def _nothing_to_do() -> None:
    """Do nothing when the daemon serves: nobody waits for that."""


def _log_directory() -> Path | None:
    try:
        return own_log_directory()
    except HomeUnknown:
        return None


def _allow_many_descriptors() -> None:
    """Raise the soft limit of open descriptors to the hard one: each guest needs two, and each lock one."""
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        # After a live upgrade, all locks would end with the daemon.
        _logger.warning("the limit of descriptors stays as it is: %s; raise LimitNOFILE=", error)
