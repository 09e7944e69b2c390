"""Which process a client means by the pid that it registers.

The pid is one of the client's pid namespace. A client in a container has a namespace of its own, and the process
that has this pid on the host is a stranger: it is neither watched nor killed (Invariant 2).
"""

import os
from typing import NamedTuple

from lockd.daemon.owner_process import Place
from lockd.daemon.session import Session
from lockd.linux.peers import Peer, open_peer
from lockd.linux.pid_namespaces import OUTSIDE, UNSEEN, namespace_of, pid_here, pids_of
from lockd.linux.processes import has_ended, open_pidfd


class Unidentified(Exception):
    """It cannot be known which process a client means."""


class Subject(NamedTuple):
    """The process that a client means.

    :ivar pid: its pid on this host; None if that cannot be known.
    :ivar pidfd: a descriptor of it; None if there is none. Whoever asked for it closes it.
    :ivar place: another pid namespace that it is in, and its pid there; None if none is known.
    :ivar is_dead: whether there is no such process.
    :ivar is_certain: False if the process may be another one that has got the pid since.
    :ivar is_ended_peer: whether it is the process that connected, and that has ended since. Its pid may be that of
        another process now.
    """

    pid: int | None
    pidfd: int | None = None
    place: Place | None = None
    is_dead: bool = False
    is_certain: bool = True
    is_ended_peer: bool = False

    def close(self) -> None:
        """Close the pidfd, if there is one."""
        if self.pidfd is not None:
            os.close(self.pidfd)


def identify(session: Session, number: int) -> Subject:
    """Find out which process a client means.

    :param session: the client.
    :param number: the pid that the client registers.
    :returns: the process.
    :raises OSError: it cannot be found out now, or the process cannot be watched: see ``open_pidfd``.
    :raises Unidentified: the client's pid namespace cannot be known.
    """
    if session.peer_pid == 0:
        return Subject(None, place=Place(OUTSIDE, number))
    peer = open_peer(session.fd, session.peer_pid, session.connected)
    if peer is None:
        return _ended_peer(session.peer_pid, number)
    subject = None
    try:
        subject = _meant_by(peer, session.peer_pid, number)
    finally:
        if subject is None or subject.pidfd != peer.pidfd:
            os.close(peer.pidfd)
    return subject


def _ended_peer(pid: int, number: int) -> Subject:
    """Return the process that connected, and has ended since. Nobody can know what its pid namespace was.

    :raises Unidentified: it registers another process.
    """
    if number == pid:
        return Subject(number, is_dead=True, is_ended_peer=True)
    raise Unidentified(f"process {pid}, which connected, has ended: it can register no other one")


def _meant_by(peer: Peer, peer_pid: int, number: int) -> Subject:
    pids = pids_of(peer.pidfd)
    if not pids:
        return _ended_peer(peer_pid, number)
    place = None
    if len(pids) > 1:
        namespace = namespace_of(pids[0])
        place = None if namespace is None else Place(namespace, number)
    if number == pids[-1]:
        return Subject(pids[0], peer.pidfd, place, is_certain=peer.is_certain)
    if len(pids) == 1:
        pidfd = open_pidfd(number)
        return Subject(number, pidfd, is_dead=pidfd is None)
    if place is None:
        raise Unidentified(
            f"the pid namespace of process {pids[0]} cannot be known, as its parent is in another one: "
            f"pid {number} there cannot be registered"
        )
    return _translated(pids[0], place)


def _translated(member: int, place: Place) -> Subject:
    """Find the process with a pid of another namespace.

    :param member: the pid here of a process of that namespace.
    """
    try:
        pid = pid_here(member, place.number)
    except OSError as error:
        if error.errno not in UNSEEN:
            raise
        # An older kernel, or no CAP_SYS_PTRACE. Nobody is watched then; the owner keeps its locks until it
        # releases them, or until it registers itself.
        return Subject(None, place=place)
    pidfd = None if pid is None else open_pidfd(pid)
    if pidfd is None:
        return Subject(None, place=place, is_dead=True)
    # The pid may have been given to another process between the two calls. A live process keeps its pids.
    try:
        if not has_ended(pidfd) and place.number in pids_of(pidfd)[1:]:
            return Subject(pid, pidfd, place)
    except BaseException:
        os.close(pidfd)
        raise
    os.close(pidfd)
    return Subject(None, place=place, is_dead=True)
