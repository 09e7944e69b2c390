"""Run virt-admin on the private daemon of a test."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

import pytest

from tests.private_daemon import PrivateDaemon

# Parts of the output that differ from daemon to daemon, or from second to second.
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+0000")
_VARYING = {_TIME: "TIME", re.compile(r"(unix_process_id: )\d+"): r"\1PID"}


@dataclass(frozen=True)
class Outcome:
    """Output, error output and exit status of a command."""

    status: int
    output: str
    errors: str


def need_virt_admin() -> None:
    """Skip the test if virt-admin is not installed."""
    if shutil.which("virt-admin") is None:
        pytest.skip("virt-admin is not installed")


def virt_admin(daemon: PrivateDaemon, *arguments: str) -> Outcome:
    """Run one command; in its output, words replace the times, pids and paths that only this daemon has."""
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
