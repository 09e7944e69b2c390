"""Pid namespaces: a process in a container has another pid there than here (pid_namespaces(7))."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Final, NamedTuple

from lockd.linux.processes import start_ticks

_NS_GET_TGID_FROM_PIDNS: Final = 0x8004B707
"""The ioctl that translates a pid of a pid namespace (<linux/nsfs.h>, Linux 6.11); Python has no name for it."""

_PATIENCE: Final = 64
"""How many ancestors of a process are looked at. A chain of parents is rarely longer than ten."""


class PidNamespace(NamedTuple):
    """What distinguishes a pid namespace from every other one of this host.

    /proc/PID/ns/pid has a number for it, but only CAP_SYS_PTRACE lets a process see that of any other one.

    :ivar first: the pid here of its first process, with which it ends.
    :ivar ticks: when that process started (``start_ticks``).
    """

    first: int
    ticks: int


OUTSIDE: Final = PidNamespace(0, 0)
"""Stands for all pid namespaces whose processes this process cannot see: it is in a container itself."""

UNSEEN: Final = frozenset((errno.ENOTTY, errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOENT, errno.ESRCH))
"""The errors that say that a process cannot be seen from here: it is gone, or the kernel is older, or does not permit it.
Any other error, such as that there is no descriptor left, says nothing about the process."""

UNKNOWN: Final = PidNamespace(-1, 0)
"""Stands for a pid namespace that nothing is known of: the state of virtlockd has only numbers."""


def pids_of(pidfd: int) -> tuple[int, ...]:
    """Return all pids of a process: the one here first, the one in its own pid namespace last.

    A process of the same namespace as this one has one pid. This needs no privilege.

    :param pidfd: a descriptor of the process.
    :returns: the pids; none if the process is dead and reaped, or cannot be seen from here.
    :raises OSError: the descriptor cannot be looked at (proc(5)), as descriptors or memory have run out.
    """
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file)
    pids = tuple(map(int, fields.get("NSpid", fields["Pid"]).split()))
    return pids if pids[0] > 0 else ()


def namespace_of(pid: int) -> PidNamespace | None:
    """Return the pid namespace of a process.

    The ancestors of the process are searched for the first process of the namespace.

    :param pid: the pid here.
    :returns: the namespace; None if it cannot be known, as the parent is in another one (setns(2)) or dead.
    :raises OSError: the process cannot be looked at now, as descriptors or memory have run out.
    """
    depth = 0
    for _ in range(_PATIENCE):
        try:
            fields = _status(pid)
            pids = fields["NSpid"].split()
            depth = depth or len(pids)
            if len(pids) == depth and pids[-1] == "1":
                return PidNamespace(pid, start_ticks(pid))
            pid = int(fields["PPid"])
        except OSError as error:
            if error.errno in UNSEEN:
                return None
            raise
        except (KeyError, ValueError):
            return None
        if len(pids) < depth or pid == 0:
            return None
    return None


def pid_here(member: int, number: int) -> int | None:
    """Translate a pid of another pid namespace.

    :param member: the pid here of a process of that namespace.
    :param number: the pid there.
    :returns: the pid here; None if no process has this pid there.
    :raises OSError: it cannot be translated. With an error of ``UNSEEN``, it never can: the kernel is older than Linux
        6.11, or does not permit it. Otherwise it cannot now, as descriptors or memory have run out.
    """
    namespace = os.open(f"/proc/{member}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(namespace, _NS_GET_TGID_FROM_PIDNS, number)
    except OverflowError:
        return None
    except OSError as error:
        if error.errno == errno.ESRCH:
            return None
        raise
    finally:
        os.close(namespace)


def _status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
