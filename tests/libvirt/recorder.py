"""A fake lock daemon that grants every call and records it, to show the calls of libvirt's plugin."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lockd.wire import lock
from lockd.wire.frames import FrameReader, encode_reply
from lockd.wire.lock import AcquireFlags, Procedure


class ResourceArguments(NamedTuple):
    """The arguments of an ACQUIRE_RESOURCE call."""

    lockspace: str
    name: str
    flags: AcquireFlags


class Recorder:
    """The calls of one libvirtd, in their order."""

    def __init__(self, listener: socket.socket) -> None:
        self.created: list[str] = []
        self.acquired: list[ResourceArguments] = []
        self._listener = listener

    def serve(self) -> None:
        """Serve every connection until the listener is shut down."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        reader = FrameReader(lock.ARGUMENTS_MAX)
        with connection:
            while data := connection.recv(65536):
                reader.feed(data)
                while (call := reader.next_frame()) is not None:
                    self._note(call.procedure, call.payload)
                    connection.sendall(encode_reply(call))

    def _note(self, procedure: int, payload: bytes) -> None:
        if procedure == Procedure.CREATE_LOCKSPACE:
            self.created.append(lock.decode_create_lockspace(payload))
        elif procedure == Procedure.ACQUIRE_RESOURCE:
            lockspace, name, flags = lock.decode_resource(payload)
            self.acquired.append(ResourceArguments(lockspace, name, AcquireFlags(flags)))


@contextmanager
def recording_daemon(path: Path) -> Iterator[Recorder]:
    """Run a recorder at the path of the lock daemon's socket."""
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        recorder = Recorder(listener)
        thread = threading.Thread(target=recorder.serve)
        thread.start()
        try:
            yield recorder
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
