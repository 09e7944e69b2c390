"""The program of a lock daemon, which a test replaces while the daemon runs."""

import shutil
import signal
import sys
from pathlib import Path

from lockd.wire import frames, keepalive
from tests.private_daemon import LOCKD, VIRTLOCKD, PrivateDaemon
from tests.waiting import wait_until

PROGRAMS = {"lockd": LOCKD, "virtlockd": VIRTLOCKD}

PING = frames.encode(
    keepalive.PROGRAM, keepalive.VERSION, keepalive.Procedure.PING, frames.FrameType.MESSAGE, 0
)

# A program that runs between the one that saves its state and the one that adopts it, in the same process.
_BETWEEN = """\
#!{python}
import json, os, sys
if "--version" in sys.argv:
    print("virtlockd (lockd) of a test")
    sys.exit()
from lockd.libvirt.addresses import own_addresses
path = own_addresses().state_file
state = json.loads(path.read_bytes().decode(errors="surrogateescape"))
extra = state.get("lockd")
resources = state["defaultLockspace"]["resources"]
server = state["daemon"]["servers"]["virtlockd"]
{code}
if path.exists():
    path.write_bytes(json.dumps(state).encode(errors="surrogateescape"))
os.execv({lockd!r}, sys.argv)
"""


class Program:
    """The path of a lock daemon's executable. Installing a program there replaces the old one atomically."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.path = directory / "virtlockd"

    def install(self, name: str) -> None:
        """Install lockd or virtlockd."""
        shutil.copy2(PROGRAMS[name], self._draft)
        self._draft.rename(self.path)

    def install_script(self, text: str) -> None:
        self._draft.write_text(text)
        self._draft.chmod(0o755)
        self._draft.rename(self.path)

    def install_lockd_after(self, code: str) -> None:
        """Install lockd, behind Python code that may first change the saved state and the descriptors.

        In the code, `state` is the whole state; `extra`, `resources` (of the direct lockspace) and `server`
        are parts of it.
        """
        self.install_script(_BETWEEN.format(python=sys.executable, code=code, lockd=str(LOCKD)))

    @property
    def _draft(self) -> Path:
        return self.path.with_name("draft")


def upgrade(daemon: PrivateDaemon) -> None:
    """Have the daemon replace its program, and wait until the next program serves."""
    replace_program(daemon)
    assert answers(daemon)


def replace_program(daemon: PrivateDaemon) -> None:
    """Have the daemon replace its program, and wait until the next program runs."""
    image = daemon.running_image()
    daemon.signal(signal.SIGUSR1)
    wait_until(lambda: daemon.running_image() not in {image, b""}, "the daemon has replaced its program")


def answers(daemon: PrivateDaemon) -> bool:
    """Send a ping and wait for the answer; return whether it came."""
    with daemon.connect() as connection:
        connection.sendall(PING)
        return connection.recv(100) == keepalive.PONG


def upgrade_to_new_sockets(daemon: PrivateDaemon) -> None:
    """Have the daemon replace its program by one that has to make new listening sockets; wait for these."""
    old = daemon.socket.with_name("old-sock")
    daemon.socket.rename(old)
    daemon.signal(signal.SIGUSR1)
    wait_until(daemon.serves, "the next program listens")
    assert answers(daemon)


def said(daemon: PrivateDaemon) -> str:
    """Return all that the daemon has logged."""
    return daemon.output() + (daemon.log.read_text(errors="replace") if daemon.log.exists() else "")


def refused_upgrade(daemon: PrivateDaemon) -> str:
    """Tell the daemon to replace its program, which it has to refuse; return what it logs about that."""
    before = len(said(daemon))
    image = daemon.running_image()
    daemon.signal(signal.SIGUSR1)
    wait_until(lambda: "goes on" in said(daemon)[before:], "the daemon says that it goes on")
    assert answers(daemon)
    assert daemon.running_image() == image
    return said(daemon)[before:]
