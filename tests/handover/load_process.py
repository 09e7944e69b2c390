"""A client that makes calls without pause and checks each answer.

Usage: load_process.py SOCKET DIRECTORY. It keeps one lock all the time, prints "ready", and makes calls until
a line comes on its standard input. Then it prints, in JSON, the number of its calls and the duration of each
long call in seconds.
"""

import json
import os
import random
import select
import socket
import sys
import time
from pathlib import Path
from uuid import uuid4

from lockd.wire import frames, lock
from lockd.wire.lock import AcquireFlags, Procedure

PIPELINED = 8
DISKS = 4
LONG = 0.02  # seconds


class Client:
    """A connection with numbered calls, so that a missing answer or a surplus one is noticed."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(path)
        self._reader = frames.FrameReader(frames.LENGTH_MAX)
        self._serial = 0
        self.calls = 0
        self.waits: list[float] = []

    def call(self, *calls: tuple[Procedure, bytes]) -> None:
        """Send calls, all at once; each has to succeed, and the answers have to come in order."""
        serials = range(self._serial, self._serial + len(calls))
        self._serial += len(calls)
        begun = time.monotonic()
        self._socket.sendall(
            b"".join(
                frames.encode(
                    lock.PROGRAM, lock.VERSION, procedure, frames.FrameType.CALL, serial, payload=payload
                )
                for serial, (procedure, payload) in zip(serials, calls, strict=True)
            )
        )
        for serial in serials:
            reply = self._reply()
            if (reply.serial, reply.status) != (serial, frames.Status.OK):
                sys.exit(f"call {serial} was answered with {reply}")
        self.calls += len(calls)
        waited = time.monotonic() - begun
        if waited > LONG:
            self.waits.append(waited)

    def _reply(self) -> frames.Frame:
        while (frame := self._reader.next_frame()) is None:
            data = self._socket.recv(65536)
            if not data:
                sys.exit("the daemon closed the connection")
            self._reader.feed(data)
        return frame

    def has_more(self) -> bool:
        """Return whether there is an answer that belongs to no call."""
        return bool(select.select([self._socket], [], [], 0.1)[0])


def main() -> None:
    """Make calls until a line comes on standard input."""
    path, directory = sys.argv[1], Path(sys.argv[2])
    client = Client(path)
    lockspace = str(directory.parent / "leases")
    client.call(
        (Procedure.REGISTER, lock.encode_register(lock.Owner(uuid4(), f"load {os.getpid()}", 1, os.getpid())))
    )
    client.call((Procedure.CREATE_LOCKSPACE, lock.encode_create_lockspace(lockspace)))
    directory.mkdir()
    disks = [directory / str(number) for number in range(DISKS)]
    for disk in disks:
        disk.touch()
    shared = str(directory.parent / "shared")
    client.call((Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", str(disks[0]))))
    client.call((Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", shared, AcquireFlags.SHARED)))
    lease = f"lease-{os.getpid()}"
    resources = [
        *(("", str(disk), AcquireFlags(0)) for disk in disks[1:]),
        (lockspace, lease, AcquireFlags.AUTOCREATE),
        ("", shared, AcquireFlags.SHARED),
    ]
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        client.call(
            *(
                call
                for space, name, flags in random.choices(resources, k=random.randint(1, PIPELINED))
                for call in (
                    (Procedure.ACQUIRE_RESOURCE, lock.encode_resource(space, name, flags)),
                    (Procedure.RELEASE_RESOURCE, lock.encode_resource(space, name)),
                )
            )
        )
    if client.has_more():
        sys.exit("an answer came that belongs to no call")
    print(json.dumps({"calls": client.calls, "waits": client.waits}), flush=True)
    # Keep the locks until the test has looked at them: they end with this process.
    sys.stdin.read()


if __name__ == "__main__":
    main()
