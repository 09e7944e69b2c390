"""Start as many processes as a large host has guests: crowd_process.py COUNT.

It prints their pids. The processes end when standard input ends.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Start the processes."""
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
