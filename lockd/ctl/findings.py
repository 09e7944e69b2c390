"""The checks of ``lockctl check``."""

import errno
import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from lockd.client.calls import this_process
from lockd.client.connection import LockConnection
from lockd.client.errors import ClientError, SystemCallFailed, UnknownProgram
from lockd.client.naming import lease_name
from lockd.client.plugin_config import FILE_NAME, PluginConfig, read_plugin_config
from lockd.client.resource import Resource
from lockd.client.status import StatusConnection
from lockd.ctl.exits import Failure
from lockd.ctl.file_locks import lock_holder
from lockd.ctl.holdings import AT_SERVER, Holding, doubts_of, overview
from lockd.ctl.places import Kind, place_of
from lockd.ctl.processes import disks_in_arguments, is_qemu
from lockd.libvirt import conf
from lockd.libvirt.addresses import default_pool, own_addresses
from lockd.linux.file_systems import Reach, local_lock_option, may_block, reach_of
from lockd.linux.mount_table import Mount, MountTable
from lockd.linux.processes import all_pids, descriptor_limit

PASS: Final = "PASS"
WARN: Final = "WARN"
FAIL: Final = "FAIL"

_LISTED: Final = "locks of the kernel"

HASH_SUBJECT: Final = "its hash, to be the same on all hosts"

_DESCRIPTORS_PER_GUEST: Final = 2
"""Descriptors that the daemon needs for a guest: its connection and its pidfd. Each lock takes one more."""

_LOCKS_PER_GUEST: Final = 4
"""An estimate of the number of disks of a guest with many disks."""

_NEARLY: Final = 0.8
"""The share of max_clients that gives a warning if it is in use."""

_SECONDS: Final = 5.0
"""How long a file system may take to look at a directory, and the daemon to lock a file, for a check."""

_HANGS: Final = f"its file system does not answer within {_SECONDS:.0f} seconds: see if its server runs"

_CANNOT_LOCK: Final = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP))
"""The errors of a file system that has no locks, or whose lock service does not run (fcntl(2), nfs(5))."""


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
    serves = yield from _daemon()
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
            yield from _lockspace(directory, daemon_serves=serves)
        if serves and config.auto_disk_leases and config.file_lockspace_dir is None:
            yield from _images()
    yield from _shared_file_systems()


# The daemon


def _daemon() -> Generator[Finding, None, bool]:
    """Check the daemon. Return whether it serves."""
    subject = "lock daemon"
    try:
        with StatusConnection.connect() as connection:
            daemon = connection.daemon()
    except UnknownProgram:
        yield Finding(subject, WARN, "is running, but is not lockd: its state cannot be checked")
        return True
    except ClientError as error:
        yield Finding(subject, FAIL, str(error))
        return False
    yield Finding(subject, PASS, f"lockd {daemon['version']} (pid {daemon['pid']})")
    yield from _limits(daemon)
    yield from _locks()
    return True


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


def _locks() -> Iterator[Finding]:
    try:
        holdings = overview().holdings
    except (ClientError, Failure) as error:
        yield Finding(_LISTED, FAIL, str(error))
        return
    yield _kernel(holdings)
    yield _doubts(holdings)


def _kernel(holdings: list[Holding]) -> Finding:
    wrong = ", ".join(holding.path for holding in holdings if holding.disagrees)
    if wrong:
        return Finding(
            _LISTED, FAIL, f"differ from the daemon's on {wrong}: see lockctl status -o +KERNEL,PATH"
        )
    unknown = sum(holding.kernel == AT_SERVER for holding in holdings)
    rest = f"; {unknown} more are kept by file servers, and the kernel does not list them" if unknown else ""
    return Finding(_LISTED, PASS, f"agree on all {len(holdings) - unknown}{rest}")


def _doubts(holdings: list[Holding]) -> Finding:
    subject = "locks in doubt"
    doubts = "; ".join(f"{path}: {doubt}" for path, doubt in doubts_of(holdings).items())
    if not doubts:
        return Finding(subject, PASS, f"none of {len(holdings)}")
    # A guest whose disk was replaced writes to a file that is gone with the guest, if that is not put back before.
    return Finding(
        subject,
        FAIL,
        f"{doubts}; see for each that nobody else uses the disk (lockctl who), and that the path names the file that "
        "its guest has open; then start the guest again",
    )


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
        settings.texts("lockspaces")
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


def _lockspace(directory: str, *, daemon_serves: bool) -> Iterator[Finding]:
    subject = f"lockspace {directory}"
    place = place_of(directory, _SECONDS)
    if place is None:
        yield Finding(subject, FAIL, _HANGS)
        return
    if place.kind is Kind.OTHER:
        yield Finding(subject, FAIL, "is not a directory")
    elif place.kind is Kind.NOTHING:
        yield Finding(subject, WARN, "does not exist; the daemon makes it when the first guest starts")
    elif daemon_serves:
        yield _works(directory, subject, unmade=FAIL)
    mount = MountTable.read().mount_of(place.path)
    yield _reaches(mount, f"reach of {directory}", "the lockspace")


def _works(directory: str, subject: str, *, unmade: str) -> Finding:
    """Have the daemon lock a new file, in its own way, and check that this process sees the lock.

    This tries the steps of a guest's start: the daemon may create, open and lock files in another way than this
    process, and with other mounts. ``unmade`` is the result if the daemon can make no file.
    """
    resource = Resource("", f"{directory}/.lockctl-check-{os.getpid()}", autocreate=True)
    try:
        with LockConnection.connect(timeout=_SECONDS) as connection:
            connection.register(this_process("lockctl check"))
            connection.acquire(resource)
            seen = lock_holder(resource.path) is not None
            connection.release(resource)
    except SystemCallFailed as error:
        if error.errno in _CANNOT_LOCK:
            return Finding(subject, FAIL, f"its files cannot be locked, and no guest can start: {error}")
        return Finding(subject, unmade, f"the daemon can make no file in it: {error}")
    except ClientError as error:
        return Finding(subject, FAIL, str(error))
    except OSError as error:
        why = f"{error.strerror}: the file that the daemon has locked is not there for other processes"
        return Finding(subject, FAIL, why)
    if not seen:
        return Finding(
            subject, FAIL, "a lock of the daemon is not seen by another process: guests are not protected"
        )
    return Finding(subject, PASS, "its files can be made and locked")


def _images() -> Iterator[Finding]:
    """Check the file systems of disks that are locked themselves, each in one directory."""
    mounts = MountTable.read()
    checked: set[int] = set()
    for directory in _image_directories():
        subject = f"images in {directory}"
        apparent = mounts.mount_of(directory)
        # On a local file system, a symbolic link may lead to another one.
        if apparent.number in checked and may_block(apparent.kind):
            continue
        place = place_of(directory, _SECONDS)
        if place is None:
            checked.add(apparent.number)
            yield Finding(subject, FAIL, _HANGS)
            continue
        mount = mounts.mount_of(place.path)
        if place.kind is not Kind.DIRECTORY or mount.number in checked:
            continue
        checked.add(mount.number)
        # The daemon opens disks that exist. It need not be able to make any.
        yield _works(directory, subject, unmade=WARN)
        if reach_of(mount) is not Reach.BROKEN:  # those are among the shared file systems
            yield _reaches(mount, f"reach of {directory}", "the images")


def _image_directories() -> list[str]:
    """Return directories with disks: of locks that are held, of guests that run, and of libvirt's default pool."""
    held: list[str] = []
    with suppress(ClientError, Failure):
        held = [holding.path for holding in overview().holdings if not holding.lockspace]
    used = [path for pid in all_pids() if is_qemu(pid) for path in disks_in_arguments(pid)]
    paths = [path for path in [*held, *used] if path.startswith("/") and not path.startswith("/dev/")]
    directories = [os.path.dirname(path) for path in paths] + [str(default_pool())]
    return list(dict.fromkeys(map(os.path.normpath, directories)))


def _reaches(mount: Mount, subject: str, what: str) -> Finding:
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
            end = f"if hosts share disks, {what} must be on a shared file system"
            return Finding(subject, WARN, f"{place}: only this host sees the locks; {end}")


def _shared_file_systems() -> Iterator[Finding]:
    """Yield a finding for each shared file system whose locks other hosts do not see."""
    for mount in MountTable.read().mounts:
        if reach_of(mount) is Reach.BROKEN:
            yield _reaches(mount, f"reach of disks on {mount.point}", "the disks")
