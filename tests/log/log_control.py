"""Set the log outputs and filters of a private daemon, and make it log messages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lockd.client.connection import LockConnection
from lockd.client.errors import Refused
from lockd.client.resource import Resource
from lockd.wire.admin import Procedure
from lockd.wire.errors import ErrorReply
from tests.admin.raw_admin import RawAdmin, arguments, optional
from tests.private_daemon import PrivateDaemon


class LogControl:
    """Gets and sets the log's outputs and filters through the admin socket."""

    def __init__(self, daemon: PrivateDaemon) -> None:
        self._path = daemon.admin_socket

    @property
    def outputs(self) -> str:
        with RawAdmin(self._path) as admin:
            return _string(admin.result(Procedure.GET_LOGGING_OUTPUTS, arguments(0)))

    @property
    def filters(self) -> str:
        with RawAdmin(self._path) as admin:
            result = admin.result(Procedure.GET_LOGGING_FILTERS, arguments(0))
            return _string(result[4:]) if result[3] else ""

    def set_outputs(self, text: str) -> None:
        with RawAdmin(self._path) as admin:
            admin.result(Procedure.SET_LOGGING_OUTPUTS, arguments(optional(text), 0))

    def set_filters(self, text: str) -> None:
        with RawAdmin(self._path) as admin:
            admin.result(Procedure.SET_LOGGING_FILTERS, arguments(optional(text), 0))

    def refused_outputs(self, text: str) -> ErrorReply:
        """Try to set outputs that have to be refused, and return the error."""
        with RawAdmin(self._path) as admin:
            return admin.error(Procedure.SET_LOGGING_OUTPUTS, arguments(optional(text), 0))


def _string(payload: bytes) -> str:
    size = int.from_bytes(payload[:4], "big")
    return payload[4 : 4 + size].decode()


def log_an_error(daemon: PrivateDaemon, name: str = "missing") -> None:
    """Ask for a lock on a missing file: the daemon logs an error."""
    with LockConnection.connect(daemon.socket, timeout=15) as connection:
        connection.register()
        try:
            connection.acquire(Resource("", f"{daemon.directory}/{name}"))
        except Refused:
            return
        raise AssertionError("a missing file was locked")


@contextmanager
def lock_held(daemon: PrivateDaemon, path: Path) -> Iterator[None]:
    """Hold a lock. The daemon logs its acquisition and its release at level info."""
    with LockConnection.connect(daemon.socket, timeout=15) as connection:
        connection.register()
        with connection.holding(Resource("", str(path))):
            yield
