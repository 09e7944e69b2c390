"""Explanations of refusals: which guest or process holds a lock, if this host can know it (Invariant 6)."""

from collections.abc import Callable
from typing import Any, Final

from lockd.daemon.log.sinks import LogFile
from lockd.daemon.owner_process import OwnerProcess, owner_name
from lockd.linux.printable import printable
from lockd.linux.processes import command_name
from lockd.locks.errors import Busy, Outsider, RelatedHolder
from lockd.locks.resource import Resource, State

_OWNERS_NAMED: Final = 3
"""How many owners of a shared resource a message names. A hundred guests may share a disk."""


class Explainer:
    """Names the holder of a lock in error messages.

    :param owner_of: returns the owner with a key, or None if there is none.
    :param has_server: returns whether other hosts or file servers may lock the file with a path.
    """

    def __init__(
        self, owner_of: Callable[[int], OwnerProcess | None], has_server: Callable[[str], bool]
    ) -> None:
        self._owner_of = owner_of
        self._has_server = has_server

    def busy(self, error: Busy) -> str:
        """Return the message of an error, and add the holder of the lock if it is known.

        :param error: the error.
        :returns: the message.
        """
        return f"{error}{self._by(error.holder)}"

    def _by(self, holder: Any) -> str:
        if isinstance(holder, RelatedHolder):
            # The path is that of another client's call. The message must stay one line.
            return f"{self._by(holder.holder)}, through {printable(holder.path)}, {holder.relation}"
        if isinstance(holder, Resource):
            action = "being acquired by" if holder.state is State.ACQUIRING else "by"
            return f" {action} {self._owners_of(holder)}"
        if isinstance(holder, Outsider):
            return f" by {self._name_outsider(holder)}"
        if isinstance(holder, str | LogFile):
            return f" by {holder}"
        return ""

    def _owners_of(self, resource: Resource) -> str:
        keys = list(dict.fromkeys(resource.holdings))
        named = ", ".join(owner_name(key, self._owner_of(key)) for key in keys[:_OWNERS_NAMED])
        more = len(keys) - _OWNERS_NAMED
        return f"{named} and {more} more" if more > 0 else named

    def _name_outsider(self, outsider: Outsider) -> str:
        pid = outsider.pid
        if pid <= 0:
            if self._has_server(outsider.path):
                return "another host"
            # No other host can lock this file. A lock of an open file description has no process (F_OFD_SETLK
            # in fcntl(2)). A process in another pid namespace, for example in a container, has no pid here.
            return "a process of this host that the kernel does not name"
        command = command_name(pid)
        if command is None:
            return f"pid {pid}"
        # A process can give itself any name, with line breaks too. The message must stay one line.
        return f"process {printable(command)} (pid {pid})"
