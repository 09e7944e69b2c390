"""virt-admin, run on a daemon of a test's own."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

import pytest

from tests.private_daemon import PrivateDaemon

# What differs between two daemons, or two moments, and says nothing about either.
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+0000")
_VARYING = {_TIME: "TIME", re.compile(r"(unix_process_id: )\d+"): r"\1PID"}


@dataclass(frozen=True)
class Outcome:
    """What a command said, and its exit status."""

    status: int
    output: str
    errors: str


def need_virt_admin() -> None:
    """Skip the test where there is no virt-admin."""
    if shutil.which("virt-admin") is None:
        pytest.skip("virt-admin is not installed")


def virt_admin(daemon: PrivateDaemon, *arguments: str) -> Outcome:
    """Run one command; what it says of this daemon alone is replaced by words for it."""
    who = "system" if os.geteuid() == 0 else "session"
    done = subprocess.run(
        ["virt-admin", "--connect", f"virtlockd:///{who}?socket={daemon.admin_socket}", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": os.environ["PATH"], "LANG": "C", "TZ": "UTC"},
        check=False,
    )
    return Outcome(done.returncode, _general(daemon, done.stdout), _general(daemon, done.stderr))


def _general(daemon: PrivateDaemon, text: str) -> str:
    text = text.replace(str(daemon.directory), "DIRECTORY")
    for pattern, word in _VARYING.items():
        text = pattern.sub(word, text)
    return text
