"""The parts of random calls: owners, lockspaces, names, and malformed calls.

These are only calls that both daemons have to answer alike. Intended differences are in
``tests/differences``. Therefore no two names here lead to one file, no name in a directory lockspace has a
slash, the directory of a lockspace is never removed, and no image is a pipe or a device.
"""

import os
import socket
from pathlib import Path
from random import Random
from struct import pack
from uuid import UUID

from lockd.wire import keepalive, lock
from lockd.wire.frames import FrameType, encode
from lockd.wire.lock import Owner, Procedure
from tests.differential.pair import SLOW_TREE, TREE

OWNER_PIDS = (4_000_001, 4_000_002, 4_000_003, 4_000_004, 0, 2**31 + 5, 2**32 - 1)
"""Pids that no process has: both daemons kill an owner that drops its connection."""

_LOCKSPACES = [
    f"{TREE}/leases",
    f"{TREE}/deep/er/leases",
    f"{TREE}//twice//slashed",
    f"{TREE}/slash/",
    f"{TREE}/./dotted",
    f"{TREE}/linked/leases",
    f"{SLOW_TREE}/leases",
]
_NO_LOCKSPACES = [f"{TREE}/unknown", f"{TREE}/fil", "/proc/nothing", f"{TREE}/%s%n", f"{TREE}/ü"]
_IMPOSSIBLE_LOCKSPACES = [
    f"{TREE}/file",
    f"{TREE}/file/below",
    f"{TREE}/loop",
    f"{TREE}/loop/below",
    f"{TREE}/fifo",
    "/proc/lockspace",
    f"{TREE}/" + "x" * 256,
    f"{TREE}/" + ("y" * 240 + "/") * 20,
    "/" + "x" * 65535,
]

_LEASES = ["0", "1", "2", "3", "4", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
_ODD_LEASES = [
    "...",
    ".hidden",
    "ü",
    "a blank",
    "quote'd",
    "%s%d%n",
    "line\nbreak",
    "\udcff\udcfe",
    "x" * 255,
]
_NO_LEASES = ["x" * 256, "x" * 4096, "x" * 65536]
_IMAGES = [f"{TREE}/images/{number}" for number in range(6)] + [
    f"{SLOW_TREE}/images/{number}" for number in range(3)
]
_ODD_IMAGES = [
    f"{TREE}//images//slashed",
    f"{TREE}/images/../images/./dotted",
    f"{TREE}/images/link",
    f"{TREE}/images/%s",
    f"{TREE}/linked/image",
]
_NO_IMAGES = [
    f"{TREE}/images/missing/0",
    f"{TREE}/images",
    f"{TREE}/images/",
    f"{TREE}/loop",
    f"{TREE}/socket",
    f"{TREE}/file/below",
    "/proc/nothing",
    "/",
    f"{TREE}/" + "x" * 256,
    "/" + "x" * 4095,
    "/" + "x" * 65535,
]
_AUTOCREATED = [f"{TREE}/made/{number}" for number in range(4)] + [f"{SLOW_TREE}/made/0"]
_NAMES_MISSING = ["", "0", "nothing"]


def furnish(root: Path) -> None:
    """Create the initial content of the trees."""
    tree, slow = Path(f"{root}{TREE}"), Path(f"{root}{SLOW_TREE}")
    for directory in (tree / "images", tree / "made", tree / "target", slow / "images", slow / "made"):
        directory.mkdir()
    for image in [
        *_IMAGES,
        f"{TREE}/file",
        f"{TREE}/images/slashed",
        f"{TREE}/images/dotted",
        f"{TREE}/images/%s",
        f"{TREE}/target/image",
        f"{TREE}/images/behind the link",
    ]:
        Path(f"{root}{image}").write_bytes(b"image")
    (tree / "linked").symlink_to("target")
    (tree / "loop").symlink_to("loop")
    (tree / "images" / "link").symlink_to("behind the link")
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))


IMAGES_REPLACED_BY_OTHERS = _IMAGES[:2]
FILES_REMOVED_BY_OTHERS = [*_IMAGES[:3], *_AUTOCREATED[:2], f"{TREE}/leases/0"]
FILES_LOCKED_BY_OTHERS = [*_IMAGES[2:], *_AUTOCREATED[:3], f"{TREE}/leases/1", f"{SLOW_TREE}/leases/1"]


class Vocabulary:
    """Makes random frames."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._serial = 0

    def call(self, procedure: int, payload: bytes) -> bytes:
        self._serial += 1
        return encode(lock.PROGRAM, lock.VERSION, procedure, FrameType.CALL, self._serial, 0, payload)

    def register(self, pid: int | None = None) -> bytes:
        random = self._random
        id_ = 0 if random.random() < 0.05 else random.choice((1, 2, 77, 2**32 - 1))
        name = random.choice(("vm", "guest 1", "ü", "", "x" * 300))
        if pid is None:
            pid = random.choice(OWNER_PIDS if random.random() < 0.1 else OWNER_PIDS[:3])
        owner = Owner(UUID(int=random.getrandbits(128)), name, id_, pid)
        return self.call(Procedure.REGISTER, lock.encode_register(owner, self._flags()))

    def restrict(self) -> bytes:
        return self.call(Procedure.RESTRICT, lock.encode_flags(self._flags()))

    def new(self) -> bytes:
        # No impossible lockspaces: virtlockd claims that it has made them.
        path = self._random.choice([*_LOCKSPACES, ""])
        return self.call(Procedure.NEW, lock.encode_lockspace(path, self._flags()))

    def create_lockspace(self) -> bytes:
        often = self._random.random()
        choices = _LOCKSPACES if often < 0.8 else [*_IMPOSSIBLE_LOCKSPACES, ""]
        return self.call(
            Procedure.CREATE_LOCKSPACE, lock.encode_create_lockspace(self._random.choice(choices))
        )

    def create_resource(self) -> bytes:
        path, name = self._random.choice((self._lease, self._image, self._autocreated))()
        return self.call(Procedure.CREATE_RESOURCE, lock.encode_resource(path, name, self._flags()))

    def delete_resource(self) -> bytes:
        path, name = self._random.choice((self._lease, self._image, self._autocreated))()
        while path == "" and not name.startswith((f"{TREE}/images/", f"{TREE}/made/", f"{SLOW_TREE}/")):
            path, name = self._image()
        return self.call(Procedure.DELETE_RESOURCE, lock.encode_resource(path, name, self._flags()))

    def acquire(self, *, shared: bool = True) -> bytes:
        random = self._random
        make = random.choice((self._lease, self._lease, self._image, self._autocreated))
        path, name = make()
        autocreate = (make != self._image) * random.choice((2, 2, 2, 0))
        flags = random.choice((0, 0, int(shared))) | autocreate | self._flags(4)
        return self.call(Procedure.ACQUIRE_RESOURCE, lock.encode_resource(path, name, flags))

    def release(self) -> bytes:
        path, name = self._random.choice((self._lease, self._lease, self._image, self._autocreated))()
        return self.call(Procedure.RELEASE_RESOURCE, lock.encode_resource(path, name, self._flags()))

    def malformed(self) -> bytes:
        """Return a call of a known procedure with arguments that are cut off or changed."""
        random = self._random
        payload = lock.encode_resource("/proc/unknown", random.choice(_LEASES), random.choice((0, 8)))
        procedure = random.choice(list(Procedure))
        if procedure == Procedure.REGISTER:
            payload = random.randbytes(16) + lock.encode_resource("vm", "", 0)
        match random.randrange(5):
            case 0:
                payload = payload[: random.randrange(len(payload))]
            case 1:
                payload += random.randbytes(random.randrange(40))
            case 2:
                size = random.choice((65536, 65537, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 3, 2**32 - 1))
                payload = pack(">I", size) + payload[4:]
            case 3:
                payload = b""
            case 4:
                payload = lock.encode_create_lockspace("x" * 65537)
        return self.call(procedure, payload)

    def stray(self) -> bytes:
        """Return a frame that is not a valid call of the lock program."""
        random = self._random
        odd = (0, 9, 10, 99, 2**31, 2**32 - 1)
        program, version, procedure, kind, status = lock.PROGRAM, 1, random.randrange(1, 9), 0, 0
        payload = random.randbytes(random.choice((0, 1, 4, 40)))
        match random.randrange(6):
            case 0:
                procedure = random.choice(odd)
            case 1:
                version = random.choice((0, 2, *odd))
            case 2:
                program = random.choice((0x06900690, keepalive.PROGRAM, 0x20008086, *odd))
            case 3:
                status = random.choice((1, 2, 3, *odd[1:]))
            case 4:
                kind = random.choice((1, 2, 3, 5, 6, 7, *odd[1:]))
            case 5:
                # A call with descriptors begins with their number, here 0.
                kind = 4
                payload = bytes(4) + payload
        self._serial += 1
        return encode(program, version, procedure, kind, self._serial, status, payload)

    def keepalive(self) -> bytes:
        """Return a keepalive message that gets no answer."""
        version, procedure = self._random.choice(((1, 2), (1, 3), (1, 0), (2, 1), (0, 1)))
        return encode(keepalive.PROGRAM, version, procedure, FrameType.MESSAGE, 0)

    def last_words(self) -> bytes:
        """Return data for which a daemon closes the connection."""
        random = self._random
        if random.random() < 0.5:
            length = random.choice((0, 1, 4, 27, 33554437, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1))
            return pack(">7I", length, lock.PROGRAM, 1, 8, 0, 1, 0)
        self._serial += 1
        payload = random.choice((b"", b"\0", pack(">I", 33), pack(">I", 2**32 - 1)))
        return encode(lock.PROGRAM, 1, 8, FrameType.CALL_WITH_FDS, self._serial, 0, payload)

    def _flags(self, bit: int = 1) -> int:
        return self._random.choice((bit, bit | 32, 2**31)) if self._random.random() < 0.02 else 0

    def _lease(self) -> tuple[str, str]:
        often = self._random.random()
        if often < 0.9:
            return self._random.choice(_LOCKSPACES[:2] if often < 0.5 else _LOCKSPACES), self._random.choice(
                _LEASES
            )
        if often < 0.97:
            return self._random.choice(_LOCKSPACES), self._random.choice([*_ODD_LEASES, *_NO_LEASES])
        return self._random.choice(_NO_LOCKSPACES), self._random.choice(_NAMES_MISSING)

    def _image(self) -> tuple[str, str]:
        often = self._random.random()
        return "", self._random.choice(_IMAGES if often < 0.85 else [*_ODD_IMAGES, *_NO_IMAGES])

    def _autocreated(self) -> tuple[str, str]:
        often = self._random.random()
        return "", self._random.choice(_AUTOCREATED if often < 0.9 else _NO_IMAGES)
