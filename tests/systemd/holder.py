"""Hold a lock, as a guest does: holder.py SOCKET OWNER-NAME OWNER-UUID RESOURCE.

It registers with its own pid. On a line "acquire" or "release" it acquires or releases the resource in the
direct lockspace, and prints "held", "released" or the daemon's error message. On "leave" it closes the
connection. It ends when its input ends.

It runs on the booted machine, with either lock daemon, and needs only Python's standard library.
"""

import os
import socket
import struct
import sys
import uuid

_LOCK_PROGRAM = 0x0EA7BEEF
_REGISTER, _ACQUIRE, _RELEASE = 1, 6, 7


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


class _Connection:
    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._serial = 0

    def close(self) -> None:
        self._socket.close()

    def call(self, procedure: int, payload: bytes) -> str:
        """Call a procedure; return the error message of the reply, empty if it is a success."""
        header = struct.pack(">6I", _LOCK_PROGRAM, 1, procedure, 0, self._serial, 0)
        self._serial += 1
        self._socket.sendall(struct.pack(">I", 4 + len(header) + len(payload)) + header + payload)
        (length,) = struct.unpack(">I", self._receive(4))
        reply = self._receive(length - 4)
        if reply[20:24] == bytes(4):
            return ""
        (size,) = struct.unpack_from(">I", reply, 24 + 12)
        return reply[24 + 16 : 24 + 16 + size].decode()

    def _receive(self, length: int) -> bytes:
        data = self._socket.recv(length, socket.MSG_WAITALL)
        if len(data) < length:
            sys.exit("the daemon closed the connection")
        return data


def main() -> None:
    """Run the commands on standard input."""
    path, name, identifier, resource = sys.argv[1:5]
    connection = _Connection(path)
    owner = uuid.UUID(identifier).bytes + _string(name) + struct.pack(">II", 1, os.getpid())
    print(os.getpid(), flush=True)
    print(connection.call(_REGISTER, owner + bytes(4)) or "registered", flush=True)
    arguments = _string("") + _string(resource) + bytes(4)
    for line in sys.stdin:
        if line == "acquire\n":
            print(connection.call(_ACQUIRE, arguments) or "held", flush=True)
        elif line == "release\n":
            print(connection.call(_RELEASE, arguments) or "released", flush=True)
        else:
            connection.close()
            print("left", flush=True)


main()
