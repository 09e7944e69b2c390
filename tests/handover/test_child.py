"""The child process that asks the next program for its version, before a live upgrade."""

import subprocess
import sys


def test_a_child_is_started_by_fork_alone() -> None:
    """vfork(2) and posix_spawn(3) hold the daemon up until the child has closed its copies of all descriptors."""
    program = "import lockd.daemon.other_programs, subprocess as s; print(s._USE_VFORK, s._USE_POSIX_SPAWN)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "False False\n"
