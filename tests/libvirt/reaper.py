"""Starts a daemon and then reaps what it leaves behind: reaper.py COMMAND… exits as COMMAND does, at once.

A guest's QEMU becomes a child of the machine's first process. Where that reaps late or, as in many
containers, never, a guest that has ended stays a zombie, and libvirt and virtlockd wait for it to go. The
reaper adopts it instead.
"""

import contextlib
import ctypes
import os
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def main() -> None:
    status_reader, status_writer = os.pipe()
    if os.fork():
        os.close(status_writer)
        sys.exit(os.read(status_reader, 1)[0])
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    exit_code = subprocess.run(sys.argv[1:], check=False).returncode
    # Whoever started the daemon reads the output to its end.
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.write(status_writer, bytes([exit_code & 0xFF]))
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    main()
