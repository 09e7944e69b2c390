"""The daemon with one more program, whose procedures meet faults as bugs or a lack of memory may cause them."""

import os

from lockd.daemon.daemon import Daemon
from lockd.daemon.main import main
from lockd.daemon.server import FunctionHandler, Handler
from lockd.daemon.session import Reply, Session
from lockd.daemon.start.sockets import Listeners
from lockd.wire.frames import Frame, encode_reply

PROGRAM, VERSION = 7, 1
FAIL, LOSE_DESCRIPTOR, SPOIL_PATH = 1, 2, 3


class Faulty:
    """The program.

    FAIL fails. LOSE_DESCRIPTOR makes the descriptor of the connection that of a directory, so that the
    connection can be neither read nor written. SPOIL_PATH gives the resource that the payload names a path
    that no system call takes.
    """

    key = (PROGRAM, VERSION)

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.handlers: dict[int, Handler] = {
            FAIL: FunctionHandler(_fail),
            LOSE_DESCRIPTOR: FunctionHandler(_lose_descriptor),
            SPOIL_PATH: FunctionHandler(self._spoil_path),
        }

    def _spoil_path(self, _session: Session, call: Frame) -> Reply:
        resource = self._daemon.table.find("", os.fsdecode(call.payload))
        assert resource is not None
        resource.path = "\0"
        return encode_reply(call)


def _fail(_session: Session, _call: Frame) -> Reply:
    raise MemoryError


def _lose_descriptor(session: Session, call: Frame) -> Reply:
    directory = os.open("/", os.O_RDONLY)
    os.dup2(directory, session.fd)
    os.close(directory)
    return encode_reply(call)


class _FaultyDaemon(Daemon):
    async def serve(self, listeners: Listeners) -> None:
        self.lock_server.add_program(Faulty(self))
        await super().serve(listeners)


if __name__ == "__main__":
    from lockd.daemon import main as module

    vars(module)["Daemon"] = _FaultyDaemon
    main()
