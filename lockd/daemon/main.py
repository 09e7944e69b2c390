"""The command ``virtlockd``."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import trio

from lockd.daemon import log, pidfile, systemd
from lockd.daemon.background import go_into_background
from lockd.daemon.config import Config, read_config
from lockd.daemon.daemon import Daemon, Listeners
from lockd.daemon.failure import Failure
from lockd.daemon.options import Options, parse_options
from lockd.daemon.sockets import listen
from lockd.wire.addresses import Addresses, own_addresses

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


def main() -> None:
    """Run the daemon."""
    addresses = own_addresses()
    options = parse_options(sys.argv[1:], addresses)
    try:
        _run(options, addresses)
    except Failure as failure:
        sys.exit(f"virtlockd: {failure}")


def _run(options: Options, addresses: Addresses) -> None:
    config = read_config(options.config or addresses.config_file, required=options.config is not None)
    log.configure(config, verbose=options.verbose)
    started = go_into_background() if options.daemon else lambda: None
    _allow_many_descriptors()
    _make_directories(addresses, options)
    pid_file = pidfile.acquire(options.pid_file)
    listeners = _listeners(addresses)
    try:
        trio.run(_serve, config, options, listeners, pid_file, started)
    finally:
        for path in (*listeners.made, options.pid_file):
            with suppress(OSError):
                path.unlink()


async def _serve(
    config: Config, options: Options, listeners: Listeners, pid_file: int, started: Callable[[], None]
) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            daemon = Daemon(config, options.timeout, nursery)
            # A client that locks the pid file must not end the daemon's own lock on it.
            daemon.table.inodes.adopt(pid_file, "the daemon itself")
            nursery.start_soon(daemon.handle_signals, signals)
            started()
            await daemon.serve(listeners)
            nursery.cancel_scope.cancel()


def _listeners(addresses: Addresses) -> Listeners:
    handed_over = systemd.activation_sockets(addresses)
    if handed_over:
        lock = handed_over.get(systemd.LOCK_SOCKET)
        if lock is None:
            raise Failure(f"systemd handed over no socket named {systemd.LOCK_SOCKET}")
        return Listeners(lock, handed_over.get(systemd.ADMIN_SOCKET), [])
    return Listeners(
        listen(addresses.socket),
        listen(addresses.admin_socket),
        [addresses.socket, addresses.admin_socket],
    )


def _make_directories(addresses: Addresses, options: Options) -> None:
    mode = 0o755 if os.geteuid() == 0 else 0o700
    for directory in (addresses.socket.parent, options.pid_file.parent):
        try:
            directory.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise Failure(f"{directory}: cannot be made: {error.strerror}") from None


def _allow_many_descriptors() -> None:
    """Raise the soft limit to the hard one: each guest takes two descriptors, and each lock one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
