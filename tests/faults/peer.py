"""A client that remembers what it was granted, and that goes on after a refusal as a user would: it tries again once."""

from collections.abc import Callable
from pathlib import Path

from tests.private_daemon import PrivateDaemon
from tests.trouble.guest import Guest, Refused

PATIENCE = 4.0


class PeerLost(Exception):
    """The connection of a peer has ended, or does not answer.

    :ivar peer: the peer.
    """

    def __init__(self, peer: "Peer", text: str) -> None:
        super().__init__(text)
        self.peer = peer


class Peer:
    """A guest with its connection, or libvirtd with a connection for a guest.

    :ivar guest: the process.
    :ivar pid: the pid that it registers.
    :ivar relies_on: the files whose lock it was granted and has not given back.
    :ivar is_lost: whether it may be killed: it has dropped its connection, or the fault has ended that.
    :ivar refusals: the errors that it got, without those that it had to get.
    """

    def __init__(self, name: str, daemon: PrivateDaemon, *, owner: "Peer | None" = None) -> None:
        self.name = name
        self.guest = Guest(
            daemon.socket, owner_pid=None if owner is None else owner.pid, patience=PATIENCE, registered=False
        )
        self.pid: int = self.guest.pid if owner is None else owner.pid
        self.relies_on: set[Path] = set() if owner is None else owner.relies_on
        self.is_lost = False
        self.refusals: list[str] = []

    def __str__(self) -> str:
        return f"{self.name}, who relies on {sorted(path.name for path in self.relies_on) or 'nothing'},"

    def register(self) -> None:
        self._twice("REGISTER", self.guest.register)

    def create_lockspace(self, path: Path) -> None:
        self._twice("CREATE_LOCKSPACE", lambda: self.guest.create_lockspace(path))

    def acquire(self, path: Path, lockspace: Path | None = None, flags: int = 0) -> None:
        """Acquire a disk, or a lease if a lockspace is given."""
        if lockspace is None:
            self._twice(f"ACQUIRE {path.name}", lambda: self.guest.acquire(path, "", flags))
        else:
            name = Path(path.name)
            self._twice(f"ACQUIRE {name}", lambda: self.guest.acquire(name, str(lockspace), flags))
        self.relies_on.add(path)

    def release(self, path: Path, lockspace: Path | None = None) -> None:
        """Release what `acquire` has acquired. If the first reply is lost, the second one may say that it is free."""
        self.relies_on.discard(path)
        if lockspace is None:
            self._twice(f"RELEASE {path.name}", lambda: self.guest.release(path), "is not locked")
        else:
            self._twice(
                f"RELEASE {path.name}",
                lambda: self.guest.release(Path(path.name), str(lockspace)),
                "is not locked",
            )

    def is_refused(self, path: Path) -> bool:
        """Acquire a disk that another peer has; return whether that was refused."""
        try:
            self._answer("ACQUIRE", lambda: self.guest.acquire(path))
        except Refused:
            return True
        return False

    def _twice(self, what: str, call: Callable[[], None], fine: str | None = None) -> None:
        for attempt in (1, 2):
            try:
                self._answer(what, call)
            except Refused as refused:
                self.refusals.append(f"{what}: {refused}")
                if attempt == 2:
                    if fine is not None and fine in str(refused):
                        return
                    raise
            else:
                return

    def _answer(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except TimeoutError:
            raise PeerLost(self, f"{self} gets no answer to {what}") from None
        except OSError as error:
            raise PeerLost(self, f"{self} loses its connection in {what}: {error}") from None

    def end(self) -> None:
        """Kill the process, if it lives, and close the connection."""
        self.guest.__exit__(None, None, None)
