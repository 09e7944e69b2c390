"""The checks of ``lockctl check``."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from lockd.client.errors import ClientError, UnknownProgram
from lockd.client.naming import lease_name
from lockd.client.plugin_config import FILE_NAME, PluginConfig, read_plugin_config
from lockd.client.status import StatusConnection
from lockd.ctl.exits import Failure
from lockd.ctl.file_locks import lock_holder
from lockd.ctl.holdings import AGREES, overview
from lockd.libvirt import conf
from lockd.libvirt.addresses import own_addresses
from lockd.linux.file_systems import Reach, local_lock_option, reach_of
from lockd.linux.mount_table import Mount, MountTable
from lockd.linux.processes import descriptor_limit

PASS: Final = "PASS"
WARN: Final = "WARN"
FAIL: Final = "FAIL"

HASH_SUBJECT: Final = "its hash, to be the same on all hosts"

_DESCRIPTORS_PER_GUEST: Final = 2
"""Descriptors that the daemon needs for a guest: its connection and its pidfd. Each lock takes one more."""

_LOCKS_PER_GUEST: Final = 4
"""An estimate of the number of disks of a guest with many disks."""

_NEARLY: Final = 0.8
"""The share of max_clients that gives a warning if it is in use."""

_HOLD: Final = """\
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
print("held", flush=True)
sys.stdin.read()
"""
"""A program that locks a file as the daemon does, until its standard input ends."""


class Finding(NamedTuple):
    """The result of one check.

    :ivar subject: what was checked.
    :ivar result: PASS, WARN or FAIL.
    :ivar detail: what was found, and what to do about it.
    """

    subject: str
    result: str
    detail: str


def findings() -> Iterator[Finding]:
    """Run all checks, and yield the finding of each."""
    yield from _daemon()
    config = None
    try:
        config = read_plugin_config()
    except ClientError as error:
        yield Finding("configuration of the locks", FAIL, str(error))
    if config is not None:
        yield from _plugin(config)
    yield from _daemon_configuration()
    yield from _hypervisor()
    if config is not None:
        for directory in config.lockspaces:
            yield from _lockspace(directory)
    yield from _shared_file_systems()


# The daemon


def _daemon() -> Iterator[Finding]:
    subject = "lock daemon"
    try:
        with StatusConnection.connect() as connection:
            daemon = connection.daemon()
    except UnknownProgram:
        yield Finding(subject, WARN, "is running, but is not lockd: its state cannot be checked")
        return
    except ClientError as error:
        yield Finding(subject, FAIL, str(error))
        return
    yield Finding(subject, PASS, f"lockd {daemon['version']} (pid {daemon['pid']})")
    yield from _limits(daemon)
    yield _kernel()


def _limits(daemon: dict[str, Any]) -> Iterator[Finding]:
    clients, most = daemon["clients"], daemon["max_clients"]
    subject = "clients of the daemon"
    if clients >= most:
        yield Finding(
            subject, FAIL, f"all {most} are connected, no further guest can start: raise max_clients"
        )
    elif clients >= _NEARLY * most:
        yield Finding(subject, WARN, f"{clients} of {most} are connected: raise max_clients soon")
    else:
        yield Finding(subject, PASS, f"{clients} of {most}")
    subject = "descriptors of the daemon"
    limit = descriptor_limit(daemon["pid"])
    needed = most * (_DESCRIPTORS_PER_GUEST + _LOCKS_PER_GUEST)
    if limit is None:
        yield Finding(subject, WARN, f"/proc/{daemon['pid']}/limits cannot be read")
    elif limit < needed:
        yield Finding(
            subject, WARN, f"{limit}, but {most} guests may need {needed}: raise LimitNOFILE in its unit"
        )
    else:
        yield Finding(subject, PASS, str(limit))


def _kernel() -> Finding:
    subject = "locks of the kernel"
    try:
        holdings = overview().holdings
    except (ClientError, Failure) as error:
        return Finding(subject, FAIL, str(error))
    wrong = [holding.path for holding in holdings if holding.kernel not in {AGREES, None}]
    if wrong:
        return Finding(subject, FAIL, f"differ from the daemon's on {', '.join(wrong)}: see lockctl status")
    return Finding(subject, PASS, f"agree on all {len(holdings)}")


# Configuration


def _plugin(config: PluginConfig) -> Iterator[Finding]:
    subject = "configuration of the locks"
    if not config.auto_disk_leases:
        yield Finding(
            subject, WARN, "auto_disk_leases is 0: disks are not locked, only leases in guests' XML"
        )
    elif config.require_lease_for_disks:
        yield Finding(subject, WARN, "require_lease_for_disks is 1: a guest without a lease does not start")
    else:
        where = ", ".join(config.lockspaces) or "the disks themselves are locked"
        yield Finding(subject, PASS, where)
    yield Finding(HASH_SUBJECT, PASS, configuration_hash(config))


def configuration_hash(config: PluginConfig) -> str:
    """Return a checksum of the settings.

    Guests of two hosts exclude each other only if the checksum is the same on both hosts.

    :param config: the settings of qemu-lockd.conf.
    :returns: the checksum, 16 hexadecimal digits.
    """
    return lease_name(repr(sorted(config._asdict().items())))[:16]


def _daemon_configuration() -> Iterator[Finding]:
    subject = "configuration of the daemon"
    path = own_addresses().config_file
    try:
        settings = conf.read(path)
        if settings is None:
            yield Finding(subject, PASS, f"{path} does not exist: the defaults apply")
            return
        for key in ("log_level", "max_clients", "admin_max_clients"):
            settings.number(key, 1)
        yield Finding(subject, PASS, str(path))
    except conf.ConfError as error:
        yield Finding(subject, FAIL, str(error))


def _hypervisor() -> Iterator[Finding]:
    subject = "lock manager of QEMU's driver"
    path = own_addresses().config_directory / "qemu.conf"
    try:
        settings = conf.read(path)
        manager = None if settings is None else settings.text("lock_manager")
    except conf.ConfError as error:
        yield Finding(subject, FAIL, str(error))
        return
    if settings is None:
        yield Finding(subject, WARN, f"{path} does not exist: libvirt takes no locks for QEMU's guests")
    elif manager == "lockd":
        yield Finding(subject, PASS, f"lockd, which reads {FILE_NAME}")
    else:
        yield Finding(
            subject,
            WARN,
            f'{manager or "none"}: libvirt does not use the lock daemon; set lock_manager = "lockd"',
        )


# File systems


def _lockspace(directory: str) -> Iterator[Finding]:
    subject = f"lockspace {directory}"
    if not os.path.isdir(directory):
        there = os.path.lexists(directory)
        yield Finding(
            subject,
            FAIL if there else WARN,
            "is not a directory"
            if there
            else "does not exist; the daemon makes it when the first guest starts",
        )
    else:
        yield _works(directory, subject)
    mount = MountTable.read().mount_of(os.path.realpath(directory))
    yield _reaches(mount, f"reach of {directory}", is_lockspace=True)


def _works(directory: str, subject: str) -> Finding:
    """Lock a new file in another process, and check that this process sees the lock."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".lockctl-check-") as file:
            holder = subprocess.Popen(
                [sys.executable, "-I", "-c", _HOLD, file.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            with holder:
                assert holder.stdout is not None
                if holder.stdout.readline() != b"held\n":
                    return Finding(subject, FAIL, "its files cannot be locked")
                noticed = lock_holder(file.name) == holder.pid
    except OSError as error:
        return Finding(subject, FAIL, f"{error.strerror}: no lease file can be made in it")
    if not noticed:
        return Finding(
            subject, FAIL, "a lock in one process is not seen by another: guests are not protected"
        )
    return Finding(subject, PASS, "its files can be made and locked")


def _reaches(mount: Mount, subject: str, *, is_lockspace: bool) -> Finding:
    place = f"{mount.kind} on {mount.point}"
    match reach_of(mount):
        case Reach.ALL_HOSTS:
            return Finding(subject, PASS, f"{place}: other hosts see the locks")
        case Reach.BROKEN:
            return Finding(
                subject,
                FAIL,
                f"{place} is mounted with {local_lock_option(mount)}: other hosts do not see the locks, "
                "and two hosts can write to the same disk: mount it without this option",
            )
        case Reach.UNKNOWN:
            return Finding(subject, WARN, f"{place}: whether other hosts see the locks is not known")
        case Reach.THIS_HOST:
            end = (
                "if hosts share disks, the lockspace must be on a shared file system"
                if is_lockspace
                else "that is all"
            )
            return Finding(subject, WARN, f"{place}: only this host sees the locks; {end}")


def _shared_file_systems() -> Iterator[Finding]:
    """Yield a finding for each shared file system whose locks other hosts do not see."""
    for mount in MountTable.read().mounts:
        if reach_of(mount) is Reach.BROKEN:
            yield _reaches(mount, f"reach of disks on {mount.point}", is_lockspace=False)
