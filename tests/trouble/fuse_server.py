"""A FUSE file system that hangs or fails on demand. It takes the place of a file server that is in trouble.

It implements the kernel's FUSE protocol itself (linux/fuse.h, fuse(4)), because no library is suitable:
pyfuse3 has no lock requests; libfuse's high-level interface (mfusepy) hides LOOKUP, unlocks by itself at each
FLUSH, and needs one of its ten threads for every request that hangs. Here a request hangs because it was read
and is not answered, as by a dead server.

Files are in memory. POSIX locks are kept here, as a network server keeps them: the kernel asks for each lock
and does not record it. `hanging_filesystem.py` runs this program as a separate process, and sends it commands
over a socket.

The same files can be mounted several times: each mount is a host. A host can be made to remember names and attributes
as a client of a network file system does (`Client`).
"""

import ctypes
import errno
import fcntl
import itertools
import json
import os
import selectors
import signal
import socket
import stat
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

REQUEST = struct.Struct("<IIQQIIIHH")  # fuse_in_header
REPLY = struct.Struct("<IiQ")  # fuse_out_header
INIT_REPLY = struct.Struct("<IIIIHHIIHHI28x")
ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY = struct.Struct("<QQQQII")
ATTRIBUTES_VALID = struct.Struct("<QII")
OPENED = struct.Struct("<QII")
LOCK_REQUEST = struct.Struct("<QQQQIIII")
LOCK_REPLY = struct.Struct("<QQII")
CLOSE = struct.Struct("<QIIQ")  # fuse_flush_in and fuse_release_in
TRANSFER = struct.Struct("<QQII")  # the start of fuse_read_in and fuse_write_in
WRITE_HEADER_SIZE = 40
SET_SIZE = struct.Struct("<IIQQ")  # the start of fuse_setattr_in
CREATE = struct.Struct("<IIII")
MAKE_FILE = struct.Struct("<IIII")
LINK = struct.Struct("<Q")
MAKE_DIRECTORY = struct.Struct("<II")
STATISTICS = struct.Struct("<QQQQQIIII24x")

OPERATIONS = {
    1: "lookup",
    2: "forget",
    3: "getattr",
    4: "setattr",
    8: "mknod",
    9: "mkdir",
    10: "unlink",
    11: "rmdir",
    13: "link",
    14: "open",
    15: "read",
    16: "write",
    17: "statfs",
    18: "release",
    25: "flush",
    26: "init",
    27: "opendir",
    29: "releasedir",
    31: "getlk",
    32: "setlk",
    33: "setlk",  # F_SETLKW: a lock that would have to wait is refused
    34: "access",
    35: "create",
    36: "interrupt",
    38: "destroy",
    42: "batch_forget",
}
UNANSWERED = frozenset({"forget", "batch_forget", "interrupt"})
OF_FILES = frozenset({"getattr", "setattr", "open", "read", "write", "getlk", "setlk"})
OF_NAMES = {
    "mknod": MAKE_FILE.size,
    "mkdir": MAKE_DIRECTORY.size,
    "create": CREATE.size,
    "link": LINK.size,
    "unlink": 0,
    "rmdir": 0,
}
"""Operations that change a name, with the place of the name in their arguments."""

REMEMBERED_SECONDS = 60

PROTOCOL = (7, 31)
POSIX_LOCKS = 1 << 1  # FUSE_POSIX_LOCKS: ask this server for locks
SIZE_CHANGES = 1 << 3  # FATTR_SIZE
ROOT = 1
LARGEST_WRITE = 128 * 1024


class RefusedError(Exception):
    """A request fails; `args[0]` is the errno of the answer."""


# The owner key and the pid of a process on another host. No pid on this host is as large.
ELSEWHERE = 2**31 - 1


@dataclass
class Lock:
    """A POSIX lock of a process on the bytes `start` to `end`, both included.

    `owner` is the kernel's key for the process: its pid may be reused by a later process.
    """

    owner: int
    pid: int
    kind: int
    start: int
    end: int

    def conflicts_with(self, other: "Lock") -> bool:
        overlap = self.start <= other.end and other.start <= self.end
        exclusive = fcntl.F_WRLCK in (self.kind, other.kind)
        return overlap and exclusive and self.owner != other.owner


@dataclass
class Node:
    """A file or a directory."""

    number: int
    mode: int
    content: bytearray = field(default_factory=bytearray)
    children: dict[str, "Node"] = field(default_factory=dict)
    locks: list[Lock] = field(default_factory=list)
    links: int = 1

    def attributes(self) -> bytes:
        size = len(self.content)
        return ATTRIBUTES.pack(
            self.number,
            size,
            (size + 511) // 512,
            0,
            0,
            0,
            0,
            0,
            0,
            self.mode,
            self.links,
            0,
            0,
            0,
            4096,
            0,
        )

    def as_entry(self) -> bytes:
        """Return the answer to a LOOKUP.

        It is valid for 0 seconds: the kernel asks each time, so each can hang.
        """
        return ENTRY.pack(self.number, 0, 0, 0, 0, 0) + self.attributes()

    def change_lock(self, wanted: Lock) -> None:
        """Set or clear a lock as F_SETLK does; raise `RefusedError` if another owner's lock conflicts."""
        if wanted.kind != fcntl.F_UNLCK and any(wanted.conflicts_with(held) for held in self.locks):
            raise RefusedError(errno.EAGAIN)
        self.locks = list(self._outside(wanted))
        if wanted.kind != fcntl.F_UNLCK:
            self.locks.append(wanted)

    def _outside(self, changed: Lock) -> Iterator[Lock]:
        """Yield the locks that remain when the bytes of `changed` are removed from its owner's locks."""
        for held in self.locks:
            if held.owner != changed.owner or held.end < changed.start or changed.end < held.start:
                yield held
                continue
            if held.start < changed.start:
                yield Lock(held.owner, held.pid, held.kind, held.start, changed.start - 1)
            if changed.end < held.end:
                yield Lock(held.owner, held.pid, held.kind, changed.end + 1, held.end)

    def drop_locks_of(self, owner: int) -> None:
        """End all locks of a process: POSIX does so when it closes any descriptor of the file."""
        self.locks = [held for held in self.locks if held.owner != owner]


class Filesystem:
    """The files, and a method for each operation.

    The method gets the node and the arguments of the request, and returns the payload of the reply.
    """

    def __init__(self) -> None:
        self.nodes = {ROOT: Node(ROOT, stat.S_IFDIR | 0o755)}
        self.numbers = itertools.count(ROOT + 1)

    def answer(self, operation: str, number: int, arguments: bytes) -> bytes:
        """Return the payload of the reply.

        Raise `RefusedError` with an errno: ENOSYS if the operation is not here.
        """
        method: Callable[[Node, bytes], bytes] | None = getattr(self, f"do_{operation}", None)
        if method is None:
            raise RefusedError(errno.ENOSYS)
        return method(self.nodes[number or ROOT], arguments)

    def do_init(self, node: Node, arguments: bytes) -> bytes:
        return INIT_REPLY.pack(*PROTOCOL, 0, POSIX_LOCKS, 0, 0, LARGEST_WRITE, 1, 0, 0, 0)

    def do_lookup(self, directory: Node, arguments: bytes) -> bytes:
        return self._child(directory, _name(arguments)).as_entry()

    def do_getattr(self, node: Node, arguments: bytes) -> bytes:
        return ATTRIBUTES_VALID.pack(0, 0, 0) + node.attributes()

    def do_setattr(self, node: Node, arguments: bytes) -> bytes:
        changes, _, _, size = SET_SIZE.unpack_from(arguments)
        if changes & SIZE_CHANGES:
            node.content = node.content[:size].ljust(size, b"\0")
        return self.do_getattr(node, b"")

    def do_mknod(self, directory: Node, arguments: bytes) -> bytes:
        mode, *_ = MAKE_FILE.unpack_from(arguments)
        return self._add(directory, _name(arguments[MAKE_FILE.size :]), mode).as_entry()

    def do_mkdir(self, directory: Node, arguments: bytes) -> bytes:
        mode, _ = MAKE_DIRECTORY.unpack_from(arguments)
        return self._add(directory, _name(arguments[MAKE_DIRECTORY.size :]), stat.S_IFDIR | mode).as_entry()

    def do_create(self, directory: Node, arguments: bytes) -> bytes:
        _, mode, _, _ = CREATE.unpack_from(arguments)
        return self._add(directory, _name(arguments[CREATE.size :]), mode).as_entry() + OPENED.pack(0, 0, 0)

    def do_unlink(self, directory: Node, arguments: bytes) -> bytes:
        name = _name(arguments)
        self._child(directory, name).links -= 1
        del directory.children[name]
        return b""

    do_rmdir = do_unlink

    def do_link(self, directory: Node, arguments: bytes) -> bytes:
        node = self.nodes[LINK.unpack_from(arguments)[0]]
        name = _name(arguments[LINK.size :])
        if name in directory.children:
            raise RefusedError(errno.EEXIST)
        directory.children[name] = node
        node.links += 1
        return node.as_entry()

    def do_open(self, node: Node, arguments: bytes) -> bytes:
        return OPENED.pack(0, 0, 0)

    def do_read(self, node: Node, arguments: bytes) -> bytes:
        _, offset, size, _ = TRANSFER.unpack_from(arguments)
        return bytes(node.content[offset : offset + size])

    def do_write(self, node: Node, arguments: bytes) -> bytes:
        _, offset, size, _ = TRANSFER.unpack_from(arguments)
        node.content = node.content.ljust(offset, b"\0")
        node.content[offset : offset + size] = arguments[WRITE_HEADER_SIZE:]
        return struct.pack("<II", size, 0)

    def do_statfs(self, node: Node, arguments: bytes) -> bytes:
        return STATISTICS.pack(1024, 1024, 1024, 1024, 1024, 4096, 255, 4096, 0)

    def do_getlk(self, node: Node, arguments: bytes) -> bytes:
        wanted = _lock(arguments)
        for held in node.locks:
            if wanted.conflicts_with(held):
                return LOCK_REPLY.pack(held.start, held.end, held.kind, held.pid)
        return LOCK_REPLY.pack(wanted.start, wanted.end, fcntl.F_UNLCK, 0)

    def do_setlk(self, node: Node, arguments: bytes) -> bytes:
        node.change_lock(_lock(arguments))
        return b""

    def do_flush(self, node: Node, arguments: bytes) -> bytes:
        *_, owner = CLOSE.unpack_from(arguments)
        node.drop_locks_of(owner)
        return b""

    def do_release(self, node: Node, arguments: bytes) -> bytes:
        return b""

    do_opendir = do_open
    do_releasedir = do_release

    def do_destroy(self, node: Node, arguments: bytes) -> bytes:
        return b""

    def lock_elsewhere(self, path: str) -> None:
        """Lock a file for a process of another host."""
        [node] = [node for where, node in _walk(PurePosixPath(), self.nodes[ROOT]) if str(where) == path]
        node.locks.append(Lock(ELSEWHERE, ELSEWHERE, fcntl.F_WRLCK, 0, 0))

    def make(self, paths: list[str]) -> None:
        """Make files, and directories, whose paths end with a slash; the paths are relative to the mount point."""
        for path in paths:
            directory = self.nodes[ROOT]
            *parents, name = path.rstrip("/").split("/")
            for parent in parents:
                directory = directory.children[parent]
            self._add(directory, name, stat.S_IFDIR | 0o700 if path.endswith("/") else stat.S_IFREG | 0o600)

    def files(self) -> dict[str, int]:
        """Return the mode of each file and directory, by its path below the mount point."""
        return {str(path): node.mode for path, node in _walk(PurePosixPath(), self.nodes[ROOT])}

    def locks(self) -> list[dict[str, Any]]:
        """Return all locks: path below the mount point, pid of the process, mode, first and last byte."""
        return [
            {
                "path": str(path),
                "pid": held.pid,
                "exclusive": held.kind == fcntl.F_WRLCK,
                "bytes": [held.start, held.end],
            }
            for path, node in _walk(PurePosixPath(), self.nodes[ROOT])
            for held in node.locks
        ]

    def _child(self, directory: Node, name: str) -> Node:
        try:
            return directory.children[name]
        except KeyError:
            raise RefusedError(errno.ENOENT) from None

    def _add(self, directory: Node, name: str, mode: int) -> Node:
        if name in directory.children:
            raise RefusedError(errno.EEXIST)
        node = Node(next(self.numbers), mode)
        self.nodes[node.number] = directory.children[name] = node
        return node


def _name(arguments: bytes) -> str:
    return os.fsdecode(arguments.partition(b"\0")[0])


def _lock(arguments: bytes) -> Lock:
    _, owner, start, end, kind, pid, _, _ = LOCK_REQUEST.unpack_from(arguments)
    return Lock(owner, pid, kind, start, end)


def _walk(path: PurePosixPath, directory: Node) -> Iterator[tuple[PurePosixPath, Node]]:
    for name, node in directory.children.items():
        yield path / name, node
        yield from _walk(path / name, node)


class Client:
    """What one host remembers of the files, as a client of a network file system does.

    It answers for a name from memory until the host changes the name itself, or finds that the file is removed; an NFS
    client also until the name's directory is opened (close-to-open consistency, nfs(5)). Attributes are told together
    with names. The kernel keeps them as well: only statx(2) with AT_STATX_FORCE_SYNC asks for them.

    With NFSv3, all that is asked of a removed file fails with ESTALE. Otherwise the server keeps a removed file as long
    as any host has it open, so that only opening it fails. An NFS client does not remove a file that its own host has
    open: it gives it another name, and removes that at the last close.
    """

    def __init__(self, filesystem: Filesystem) -> None:
        self._filesystem = filesystem
        self._open: Counter[int] = Counter()
        self._renamed: dict[int, tuple[Node, str]] = {}
        self.become("NFSv4")

    def become(self, kind: str) -> None:
        """Be a client of this kind from now on, which remembers nothing."""
        self._is_nfs = kind != "FUSE"
        self._stale = OF_FILES if kind == "NFSv3" else frozenset({"open"})
        self._names: dict[tuple[int, str], int | None] = {}
        self._attributes: dict[int, bytes] = {}

    def answer(self, operation: str, number: int, arguments: bytes) -> bytes:
        """Return the payload of the reply, as `Filesystem.answer` does."""
        number = number or ROOT
        node = self._filesystem.nodes[number]
        if node.links == 0 and (operation in self._stale or operation == "getattr"):
            self._names = {key: named for key, named in self._names.items() if named != number}
            if operation in self._stale:
                raise RefusedError(errno.ESTALE)
        if operation == "lookup":
            return self._look_up(node, _name(arguments))
        if operation == "opendir" and self._is_nfs:
            self._names = {key: named for key, named in self._names.items() if key[0] != number}
        if operation == "unlink" and self._rename_if_open(node, _name(arguments)):
            return b""
        if operation in OF_NAMES:
            name = _name(arguments[OF_NAMES[operation] :])
            self._names.pop((number, name), None)
        payload = self._filesystem.answer(operation, number, arguments)
        if operation in OF_NAMES:
            if payload:
                payload = self._look_up(node, name) + payload[ENTRY.size + ATTRIBUTES.size :]
            if operation == "create":
                self._open[node.children[name].number] += 1
        elif operation == "open":
            self._open[number] += 1
        elif operation == "release":
            self._close(number)
        elif operation in {"getattr", "setattr"}:
            self._attributes[number] = node.attributes()
            payload = ATTRIBUTES_VALID.pack(REMEMBERED_SECONDS, 0, 0) + payload[ATTRIBUTES_VALID.size :]
        return payload

    def _look_up(self, directory: Node, name: str) -> bytes:
        key = directory.number, name
        if key not in self._names:
            child = directory.children.get(name)
            self._names[key] = None if child is None else child.number
            if child is not None:
                self._attributes[child.number] = child.attributes()
        found = self._names[key]
        if found is None:
            raise RefusedError(errno.ENOENT)
        return ENTRY.pack(found, 0, 0, REMEMBERED_SECONDS, 0, 0) + self._attributes[found]

    def _rename_if_open(self, directory: Node, name: str) -> bool:
        node = directory.children.get(name)
        if not self._is_nfs or node is None or not self._open[node.number]:
            return False
        new_name = f".nfs{node.number}"
        directory.children[new_name] = directory.children.pop(name)
        self._renamed[node.number] = directory, new_name
        self._names.pop((directory.number, name), None)
        return True

    def _close(self, number: int) -> None:
        self._open[number] -= 1
        if not self._open[number] and number in self._renamed:
            directory, name = self._renamed.pop(number)
            directory.children.pop(name).links -= 1


class Server:
    """Reads requests from the kernel and commands from the test, for one mount.

    It does not answer requests that have to hang.
    """

    def __init__(self, device: int, commands: socket.socket, filesystem: Filesystem) -> None:
        self.device = device
        self.commands = commands
        self.filesystem = filesystem
        self.client = Client(filesystem)
        self.answers: Filesystem | Client = filesystem
        self.hanging: frozenset[str] = frozenset()
        self.answered_before_all_hang: int | None = None
        self.failing: dict[str, int] = {}
        self.held: list[tuple[str, int, int, bytes]] = []
        self.arrived: Counter[str] = Counter()
        self.awaited: tuple[str, int] | None = None

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have a selector wait for requests and commands. What it calls returns whether to go on."""
        selector.register(self.device, selectors.EVENT_READ, self._take_request)
        selector.register(self.commands, selectors.EVENT_READ, self._take_command)

    def _take_request(self) -> bool:
        try:
            message = os.read(self.device, LARGEST_WRITE + 4096)
        except OSError as error:
            # ENODEV: the file system is unmounted. ENOENT: the request was interrupted before it was read
            # (fuse(4)).
            return error.errno in {errno.ENOENT, errno.EINTR, errno.EAGAIN}
        _, code, unique, number, *_ = REQUEST.unpack_from(message)
        operation = OPERATIONS.get(code, f"operation {code}")
        request = operation, unique, number, message[REQUEST.size :]
        self.arrived[operation] += 1
        if self.answered_before_all_hang is not None and operation not in UNANSWERED:
            self.answered_before_all_hang -= 1
            if self.answered_before_all_hang < 0:
                self.hanging = frozenset({"everything"})
        if operation in self.hanging or "everything" in self.hanging:
            self.held.append(request)
        else:
            self._answer(*request)
        self._report_arrival()
        return True

    def _answer(self, operation: str, unique: int, number: int, arguments: bytes) -> None:
        if operation in UNANSWERED:
            return
        failure, payload = 0, b""
        try:
            if operation in self.failing:
                raise RefusedError(self.failing[operation])
            payload = self.answers.answer(operation, number, arguments)
        except RefusedError as refusal:
            failure = -refusal.args[0]
        os.write(self.device, REPLY.pack(REPLY.size + len(payload), failure, unique) + payload)

    def _take_command(self) -> bool:
        message = self.commands.recv(65536)
        if not message:
            return False
        command, *arguments = json.loads(message)
        if command == "wait":
            self.awaited = (arguments[0], arguments[1])
            self._report_arrival()
        else:
            self._reply(getattr(self, f"on_{command}")(*arguments))
        return True

    def on_hang(self, *operations: str) -> None:
        self.hanging = frozenset(operations)

    def on_hang_after(self, count: int) -> None:
        self.on_release()
        self.answered_before_all_hang = count

    def on_hangs(self) -> bool:
        return bool(self.held)

    def on_remember(self, kind: str) -> None:
        self.client.become(kind)
        self.answers = self.client

    def on_fail(self, failing: dict[str, int]) -> None:
        self.failing = failing

    def on_release(self) -> None:
        self.hanging = frozenset()
        self.answered_before_all_hang = None
        held, self.held = self.held, []
        for request in held:
            self._answer(*request)

    def on_arrived(self, operation: str) -> int:
        return self.arrived[operation]

    def on_locks(self) -> list[dict[str, Any]]:
        return self.filesystem.locks()

    def on_make(self, *paths: str) -> None:
        self.filesystem.make(list(paths))

    def on_files(self) -> dict[str, int]:
        return self.filesystem.files()

    def on_lock_elsewhere(self, path: str) -> None:
        self.filesystem.lock_elsewhere(path)

    def _report_arrival(self) -> None:
        if self.awaited is not None and self.arrived[self.awaited[0]] >= self.awaited[1]:
            self.awaited = None
            self._reply(None)

    def _reply(self, value: object) -> None:
        self.commands.send(json.dumps(value).encode())


def _mount(mount_point: str) -> int:
    """Mount this file system for every user; return its descriptor of /dev/fuse (fuse(4))."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"hanging", os.fsencode(mount_point), b"fuse.hanging", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "cannot mount a FUSE file system", mount_point)
    return device


def main() -> None:
    """Usage: fuse_server.py MOUNT_POINT COMMAND_DESCRIPTOR […], for each mount."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the test itself ends this process
    filesystem = Filesystem()
    with selectors.DefaultSelector() as selector:
        for mount_point, descriptor in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
            commands = socket.socket(fileno=int(descriptor))
            Server(_mount(mount_point), commands, filesystem).register(selector)
            commands.send(json.dumps("mounted").encode())
        # Until a file system is unmounted or the test closes a command socket.
        while all(key.data() for key, _ in selector.select()):
            pass


if __name__ == "__main__":
    main()
