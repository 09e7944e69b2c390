"""A private mount namespace for a test: no other process sees its mounts, and they end with it."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct

from tests.waiting import wait_until

_CLONE_NEWNS = 0x00020000  # <sched.h>, for unshare(2) and setns(2); Python has these two since 3.12
_MS_MOVE = 0x2000  # <sys/mount.h>
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18

_SYS_MOUNT_SETATTR = 442  # <asm-generic/unistd.h>, on all architectures
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_RDONLY = 1
_MOUNT_ATTR = Struct("=4Q")  # attr_set, attr_clr, propagation, userns_fd

_libc = ctypes.CDLL(None, use_errno=True)


def can_mount() -> bool:
    """Return whether this user may create a mount namespace; root in an ordinary container may not."""
    try:
        with private_mounts():
            return True
    except OSError:
        return False


@contextmanager
def private_mounts() -> Iterator[None]:
    """Give this thread a mount namespace until the end of the context.

    Threads and processes that it starts in the meantime are in that namespace, too.
    """
    directory = Path.cwd()
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    try:
        _check(_libc.unshare(_CLONE_NEWNS), "a mount namespace")
        try:
            _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
            yield
        finally:
            # A thread that was joined may still be about to end, and setns(2) allows no other thread (EINVAL).
            wait_until(
                lambda: _libc.setns(before, _CLONE_NEWNS) == 0, "the mount namespace is that of before"
            )
            os.chdir(directory)
    finally:
        os.close(before)


def mount(kind: str, target: Path, options: str = "") -> None:
    """Mount a new file system of the given type, such as tmpfs."""
    _mount(kind, str(target), kind, 0, options)


def bind(source: Path, target: Path) -> None:
    """Bind a file or directory to a second path."""
    _mount(str(source), str(target), None, _MS_BIND)


def move(source: Path, target: Path) -> None:
    """Move a mount to another path."""
    _mount(str(source), str(target), None, _MS_MOVE)


def unmount(target: Path) -> None:
    """Unmount the topmost mount at a path."""
    _check(_libc.umount(os.fsencode(target)), str(target))


def make_read_only(target: Path) -> None:
    """Make a mount and all mounts below it read-only, in this mount namespace."""
    _set_attributes(target, _AT_RECURSIVE, _MOUNT_ATTR.pack(_MOUNT_ATTR_RDONLY, 0, 0, 0))


def make_writable(target: Path) -> None:
    """Make one mount writable again, in this mount namespace."""
    _set_attributes(target, 0, _MOUNT_ATTR.pack(0, _MOUNT_ATTR_RDONLY, 0, 0))


def _set_attributes(target: Path, flags: int, attributes: bytes) -> None:
    path = os.fsencode(target)
    result = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, path, flags, attributes, len(attributes))
    _check(result, str(target))


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind and kind.encode(),
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(result, target)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)
