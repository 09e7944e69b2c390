"""Other programs that the daemon runs: the next version of itself, to check it, and getent(1).

A child first closes its copies of all descriptors. If a file is on a server that hangs, close(2) does not return before
the server answers, and whoever starts the child waits for that. So a worker thread starts it, and is abandoned if it
takes too long, or if the daemon ends.
"""

import subprocess
from collections.abc import Sequence

import trio

# With vfork(2), all threads would wait for the child, and all clients too. posix_spawn(3), which Python 3.13 and later
# prefer, waits in the same way.
subprocess._USE_VFORK = False  # type: ignore[misc]  # Python documents it as a switch
subprocess._USE_POSIX_SPAWN = False  # type: ignore[misc]  # and this one too


async def run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[bytes] | None:
    """Run a program, and return what it says.

    :param command: the program and its arguments.
    :param seconds: how long it may take.
    :returns: its result; None if it has not ended in time.
    :raises OSError: it cannot be run.
    :raises RuntimeError: there is no thread to start it (threading.Thread.start).
    """

    def work() -> subprocess.CompletedProcess[bytes] | None:
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return None

    with trio.move_on_after(seconds):
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
    return None
