"""``lockctl who``: show who holds a disk, and so keeps a guest from starting."""

import argparse
import os
import time
from contextlib import suppress
from typing import Any, Final

from lockd.client.errors import Unavailable, UnknownProgram
from lockd.client.plugin_config import PluginConfig, read_plugin_config
from lockd.client.status import StatusConnection
from lockd.ctl import processes
from lockd.ctl.command import Commands, add_command
from lockd.ctl.disk_argument import Disk, add_disk_options, find_disk
from lockd.ctl.exits import Exit, Failure
from lockd.ctl.file_locks import lock_holder
from lockd.ctl.holdings import Holding, holdings_of
from lockd.ctl.terminal import print_json
from lockd.linux.printable import printable

_EXAMPLE: Final = """\
example:
  lockctl who /var/lib/libvirt/images/vm1.qcow2

The exit status is 0 if somebody holds the disk, and 1 if nobody does.
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: the commands of the parser.
    """
    parser = add_command(
        commands,
        "who",
        run,
        summary="show who holds a disk",
        description="Show who holds the lock on a disk, or on its lease file: a guest, another process of "
        "this host, or another host.",
        epilog=_EXAMPLE,
    )
    add_disk_options(parser)


def run(options: argparse.Namespace) -> Exit:
    """Print who holds a disk.

    :param options: the parsed command line.
    :returns: the exit status: DONE if somebody holds it, otherwise NO.
    :raises Failure: there is no such disk, or a file cannot be read.
    :raises ClientError: qemu-lockd.conf cannot be read, or the daemon does not answer.
    """
    config = read_plugin_config()
    disks = _find_names(options.disk, config)
    holders = [_describe_holding(holding) for holding in _ask_daemon(disks)]
    holders = holders or _ask_kernel(disks)
    if options.json:
        print_json({"disk": disks[0].path, "holders": holders})
    elif holders:
        for holder in holders:
            for line in _lines(disks[0], holder):
                print(printable(line))
    else:
        print(printable(f"nobody holds {disks[0].path}{_users_of(disks[0])}"))
    return Exit.DONE if holders else Exit.NO


def _find_names(argument: str, config: PluginConfig) -> list[Disk]:
    """Return the disk by the given path and by the path without symbolic links. Guests may use either.

    :raises Failure: neither the disk nor a lease file for it exists.
    """
    disk = find_disk(argument, config)
    target = find_disk(os.path.realpath(disk.path), config)
    disks = [disk] if target == disk else [disk, target]
    if disk.identity is None and not any(
        os.path.lexists(resource.path) for disk in disks for resource in disk.resources
    ):
        raise Failure(f"{disk.path}: there is no such disk, and no lock file for it")
    return disks


# Finding the holder


def _ask_daemon(disks: list[Disk]) -> list[Holding]:
    """Return the holdings of a disk; none if lockd does not run or knows of none."""
    try:
        with StatusConnection.connect() as connection:
            for disk in disks:
                for resource in disk.resources:
                    lock = connection.find(resource.lockspace, resource.name)
                    if lock is not None:
                        return holdings_of(lock, None)
                if disk.identity is not None:
                    lock = connection.find_file(*disk.identity)
                    if lock is not None:
                        return holdings_of(lock, None)
    except (UnknownProgram, Unavailable):
        pass  # the kernel may know the holder nevertheless
    return []


def _describe_holding(holding: Holding) -> dict[str, Any]:
    pid = "a process of another pid namespace" if holding.pid is None else f"pid {holding.pid}"
    words = f'domain "{holding.owner}" ({pid})' if holding.owner else pid
    return {
        "holder": words,
        "kind": "owner",
        "owner": holding.owner,
        "uuid": holding.uuid,
        "pid": holding.pid,
        "since": holding.since,
        "mode": "exclusive" if holding.exclusive else "shared",
        "path": holding.path,
    }


def _ask_kernel(disks: list[Disk]) -> list[dict[str, Any]]:
    """Find the process that has locked the lease file of a disk, or the disk itself."""
    for disk in disks:
        for resource in disk.resources:
            try:
                pid = lock_holder(resource.path)
            except FileNotFoundError:
                continue
            except PermissionError:
                raise Failure(f"{resource.path}: permission denied", Exit.NO_PERMISSION) from None
            except OSError as error:
                raise Failure(f"{resource.path}: {error.strerror}") from None
            if pid is not None:
                return [_describe_process(pid, resource.path)]
    return []


def _describe_process(pid: int, path: str) -> dict[str, Any]:
    """Describe the holder of a lock. Its pid is 0 or negative if the kernel cannot name the process."""
    here = pid > 0
    words = processes.describe(pid) if here else "another host, or a process that lockctl cannot see"
    return {
        "holder": words,
        "kind": "process" if here else "unknown",
        "owner": None,
        "uuid": None,
        "pid": pid if here else None,
        "since": None,
        "mode": None,
        "path": path,
    }


# Output


def _lines(disk: Disk, holder: dict[str, Any]) -> list[str]:
    """Return a line that names the holder, and lines with details."""
    lines = [f"{disk.path} is held by {holder['holder']}"]
    details = []
    if holder["mode"] is not None:
        details.append(holder["mode"])
    if holder["since"] is not None:
        details.append(time.strftime("since %Y-%m-%d %H:%M:%S", time.localtime(holder["since"])))
    if details:
        lines.append(f"  {', '.join(details)}")
    if holder["uuid"] is not None:
        lines.append(f"  uuid {holder['uuid']}")
    if holder["path"] != disk.path:
        lines.append(f"  by {holder['path']}")
    return lines


def _users_of(disk: Disk) -> str:
    """Return a text about the processes that have a disk open without its lock; empty if there are none."""
    with suppress(OSError):
        users = [processes.describe(opener.pid) for opener in processes.openers_of(os.stat(disk.path))]
        if users:
            return f", but it is open in {', '.join(users)}"
    return ""
