"""The process of a guest: it connects to a lock daemon, passes the connection to the test, and runs commands.

To the daemon, this process is the peer of the connection. The test makes the calls, and drops the connection.
Usage: guest_process.py SOCKET CONTROL_DESCRIPTOR.
"""

import ctypes
import os
import signal
import socket
import sys
import threading

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the commands `deaf`, `open PATH` and `open-in-thread PATH`.

    Acknowledge an open before it begins.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # this process also ends if the test is killed
    path, control_descriptor = sys.argv[1:]
    control = socket.socket(fileno=int(control_descriptor))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(control, [b"connected"], [connection.fileno()])
    while message := control.recv(4096):
        command, _, argument = message.decode().partition(" ")
        if command == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        control.send(b"ok")
        if command == "open":
            os.open(argument, os.O_RDONLY)
        elif command == "open-in-thread":
            threading.Thread(target=os.open, args=[argument, os.O_RDONLY]).start()


if __name__ == "__main__":
    main()
