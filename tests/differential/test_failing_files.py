"""Both daemons on a file system whose operations fail: each operation with each error, for each procedure.

Random calls on files that work never reach the branches behind these errors. Where the daemons differ on purpose,
``DIFFERENCES`` and docs/compatibility.md say so. ``LOCKD_ERRORS=all``, as `make nightly` sets it, tries all errors.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from lockd.wire import lock
from lockd.wire.errors import ErrorReply
from lockd.wire.lock import Procedure
from tests.differential.pair import Pair, Side, missing, pair_of_daemons, without_holder_of
from tests.raw_client import AUTOCREATE, SHARED, RawClient
from tests.trouble.hanging_filesystem import HangingFilesystem, can_mount, mounted

MOUNT_POINT = Path("/run/served")

FAULTS = {
    "lookup": ["lookup"],
    "getattr": ["getattr"],
    # lockd makes a file by mknod(2) and then opens it, virtlockd by one open(2).
    "create": ["create", "mknod"],
    "open": ["open", "create", "mknod"],
    "mkdir": ["mkdir"],
    "unlink": ["unlink"],
    "setlk": ["setlk"],
    "flush": ["flush"],
    "all but flush": ["lookup", "getattr", "create", "mknod", "open", "mkdir", "unlink", "setlk"],
}
"""What fails, and the requests to the server that fail then."""

ERRORS = [errno.EIO, errno.EACCES, errno.ESTALE]
if os.environ.get("LOCKD_ERRORS") == "all":
    ERRORS += [
        errno.ENOSPC, errno.ENOLCK, errno.EROFS, errno.EDQUOT, errno.EMFILE, errno.ELOOP, errno.ETXTBSY,
    ]  # fmt: skip
ERRORS.append(
    errno.ENOSYS
)  # The last one, as the kernel may remember that a server does not have an operation.


class Call(NamedTuple):
    """A call on the files of one directory, which is put in place of ``{}``."""

    procedure: Procedure
    lockspace: str
    name: str = ""
    flags: int = 0

    def send(self, client: RawClient, directory: str) -> ErrorReply | None:
        """Make the call; return the error, or None."""
        lockspace, name = self.lockspace.format(directory), self.name.format(directory)
        match self.procedure:
            case Procedure.CREATE_LOCKSPACE:
                payload = lock.encode_create_lockspace(lockspace)
            case Procedure.NEW:
                payload = lock.encode_lockspace(lockspace, self.flags)
            case _:
                payload = lock.encode_resource(lockspace, name, self.flags)
        client.socket.sendall(client.frame(self.procedure, payload))
        error = client.error_reply()
        return None if error is None else without_holder_of(error)


DISK = ("", "{}/disk")
LEASE = ("{}/leases", "x")

KNOW = Call(Procedure.CREATE_LOCKSPACE, "{}/leases")
ACQUIRE = Call(Procedure.ACQUIRE_RESOURCE, *DISK)
ACQUIRE_LEASE = Call(Procedure.ACQUIRE_RESOURCE, *LEASE, AUTOCREATE)
ACQUIRE_SHARED_LEASE = Call(Procedure.ACQUIRE_RESOURCE, *LEASE, AUTOCREATE | SHARED)
RELEASE = Call(Procedure.RELEASE_RESOURCE, *DISK)
RELEASE_LEASE = Call(Procedure.RELEASE_RESOURCE, *LEASE)
CREATE = Call(Procedure.CREATE_RESOURCE, *LEASE)
DELETE = Call(Procedure.DELETE_RESOURCE, *LEASE)


class Case(NamedTuple):
    """A call while something fails.

    :ivar call: the call.
    :ivar before: calls that succeed before anything fails.
    :ivar there: whether the lease file is there already.
    """

    call: Call
    before: tuple[Call, ...] = ()
    there: bool = False


CASES = {
    "ACQUIRE": Case(ACQUIRE),
    "ACQUIRE shared": Case(ACQUIRE._replace(flags=SHARED)),
    "ACQUIRE lease": Case(ACQUIRE_LEASE, (KNOW,)),
    "ACQUIRE shared lease": Case(ACQUIRE_SHARED_LEASE, (KNOW,)),
    "ACQUIRE lease that is there": Case(ACQUIRE_LEASE, (KNOW,), there=True),
    "RELEASE": Case(RELEASE, (ACQUIRE,)),
    "RELEASE lease": Case(RELEASE_LEASE, (KNOW, ACQUIRE_LEASE)),
    "RELEASE shared lease": Case(RELEASE_LEASE, (KNOW, ACQUIRE_SHARED_LEASE)),
    "CREATE": Case(CREATE, (KNOW,)),
    "CREATE of what is there": Case(CREATE, (KNOW,), there=True),
    "DELETE": Case(DELETE, (KNOW,), there=True),
    "DELETE of what is missing": Case(DELETE, (KNOW,)),
    "CREATE_LOCKSPACE": Case(Call(Procedure.CREATE_LOCKSPACE, "{}/new")),
    "CREATE_LOCKSPACE below": Case(Call(Procedure.CREATE_LOCKSPACE, "{}/new/er")),
    "CREATE_LOCKSPACE of what is there": Case(KNOW),
    "NEW": Case(Call(Procedure.NEW, "{}/new")),
    "NEW of what is there": Case(Call(Procedure.NEW, "{}/leases")),
}

AFTERWARDS = (ACQUIRE, RELEASE, ACQUIRE_LEASE, RELEASE_LEASE)
"""Calls once nothing fails any more: they show what has stayed."""


class Outcome(NamedTuple):
    """What a daemon answered, and which locks and files there are then; and the same once nothing fails any more."""

    reply: ErrorReply | None
    locks: list[tuple[str, bool]]
    files: dict[str, int]
    later_replies: list[ErrorReply | None]
    later_locks: list[tuple[str, bool]]
    later_files: dict[str, int]


_AFTER_ENOSYS = {name: {"later_locks"} for name in CASES if not name.startswith("ACQUIRE")}
"""Once a server has said at a close that it does not know FLUSH, it is not told of any: it keeps virtlockd's locks."""

DIFFERENCES: dict[str, dict[str, set[str]]] = {
    "lookup": {"NEW": {"reply"}, "NEW of what is there": {"reply"}},
    "getattr": {
        "ACQUIRE": {"reply", "locks", "later_replies"},
        "ACQUIRE shared": {"reply", "locks", "later_replies"},
        "RELEASE lease": {"files"},
        "RELEASE shared lease": {"files"},
        "CREATE": {"reply"},
        "CREATE of what is there": {"reply"},
        "DELETE": {"reply", "files"},
        "CREATE_LOCKSPACE below": {"reply", "files", "later_files"},
        "NEW of what is there": {"reply"},
    },
    "mkdir": {"NEW": {"reply"}},
    "flush": _AFTER_ENOSYS | {"RELEASE": {"locks", "later_locks"}},
    "all but flush": {
        "CREATE_LOCKSPACE": {"reply"},
        "CREATE_LOCKSPACE below": {"reply"},
        "CREATE_LOCKSPACE of what is there": {"reply"},
        "NEW": {"reply"},
        "NEW of what is there": {"reply"},
    },
}
"""What differs on purpose, by the fault and the call. docs/compatibility.md has the reasons."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    if reason := missing():
        pytest.skip(reason)
    if not can_mount():
        pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
    with pair_of_daemons(tmp_path_factory.mktemp("failing") / "pair") as pair:
        yield pair


_numbers = count()


@pytest.mark.system
@pytest.mark.parametrize("fault", FAULTS)
def test_both_daemons_meet_an_error_alike(pair: Pair, fault: str) -> None:
    found: dict[str, set[str]] = {}
    with ExitStack() as stack:
        servers = [stack.enter_context(mounted(MOUNT_POINT, side.daemon.pid)) for side in pair.sides]
        for number in ERRORS:
            failing = dict.fromkeys(FAULTS[fault], number)
            for name, case in CASES.items():
                directory = str(next(_numbers))
                ours, theirs = (
                    outcome(side, server, directory, case, failing)
                    for side, server in zip(pair.sides, servers, strict=True)
                )
                for part, our, their in zip(Outcome._fields, ours, theirs, strict=True):
                    if our != their:
                        found.setdefault(name, set()).add(part)
                        print(f"{fault} {errno.errorcode[number]}: {name}: {part}\n  {our}\n  {their}")
    assert found == DIFFERENCES.get(fault, {})


def outcome(
    side: Side, server: HangingFilesystem, directory: str, case: Case, failing: dict[str, int]
) -> Outcome:
    leases = [f"{directory}/leases/x"] if case.there else []
    server.make(f"{directory}/", f"{directory}/disk", f"{directory}/leases/", *leases)
    path = f"{MOUNT_POINT}/{directory}"
    with RawClient(side.daemon) as client:
        for call in case.before:
            assert call.send(client, path) is None
        server.fail(**failing)
        reply = case.call.send(client, path)
        server.fail()
        then = state(server, directory)
        later_replies = [call.send(client, path) for call in AFTERWARDS]
        return Outcome(reply, *then, later_replies, *state(server, directory))


def state(server: HangingFilesystem, directory: str) -> tuple[list[tuple[str, bool]], dict[str, int]]:
    """Return the locks and the files below a directory."""
    below = f"{directory}/"
    locks = sorted((held.path, held.exclusive) for held in server.locks() if held.path.startswith(below))
    return locks, {path: mode for path, mode in server.files().items() if path.startswith(below)}
