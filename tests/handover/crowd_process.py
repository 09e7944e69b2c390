"""As many processes as there are guests on a large host: crowd_process.py COUNT prints their pids, and keeps them.

They end when standard input does.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Make the crowd."""
    prctl = ctypes.CDLL(None).prctl
    pids = []
    for _ in range(int(sys.argv[1])):
        pid = os.fork()
        if not pid:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pause()
        pids.append(pid)
    print(*pids, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
