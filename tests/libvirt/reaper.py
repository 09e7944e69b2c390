"""Start a daemon, and reap the processes that it leaves behind.

reaper.py COMMAND… exits when COMMAND exits, and with its status. A second process stays as the reaper.

A guest's QEMU becomes a child of the machine's first process. If that reaps late or, as in many containers,
never, a guest that has ended stays a zombie, and libvirt and virtlockd wait for its end. With this program,
the guest becomes a child of the reaper instead.
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
    # Close the standard streams: the caller reads the output until its end.
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.write(status_writer, bytes([exit_code & 0xFF]))
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    main()
