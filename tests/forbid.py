"""Run a program in which system calls fail, by a filter of system calls (seccomp(2)).

Usage: forbid.py CALL=ERRNO[,CALL=ERRNO...] PROGRAM [ARGUMENTS...], with the numbers of the system calls.
The call GETSOCKOPT:OPTION is getsockopt(2) with that option, and IOCTL:REQUEST is ioctl(2) with that request.
"""

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

PIDFD_SEND_SIGNAL = 424
PIDFD_OPEN = 434
"""These numbers are the same on all architectures (asm-generic/unistd.h)."""

GETSOCKOPT = 209 if platform.machine() == "aarch64" else 55
SO_PEERPIDFD = f"{GETSOCKOPT}:77"
IOCTL = 29 if platform.machine() == "aarch64" else 16
NS_GET_TGID_FROM_PIDNS = f"{IOCTL}:{0x8004B707}"
"""<linux/nsfs.h>"""

_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_LOAD_NUMBER = (0x20, 0, 0, 0)  # struct seccomp_data begins with the number of the system call
_LOAD_OPTION = {
    IOCTL: (0x20, 0, 0, 16 + 8),  # the lower half of the second argument
    GETSOCKOPT: (0x20, 0, 0, 16 + 2 * 8),  # of the third one
}
_RETURN, _JUMP_IF_EQUAL = 0x06, 0x15
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000


def forbidding(**errors: int) -> list[str]:
    """Return the start of a command that runs the rest of it as a program in which system calls fail.

    :param errors: the errno with which each call fails, by the name of the call here, in small letters.
    """
    numbers = ",".join(f"{globals()[name.upper()]}={number}" for name, number in errors.items())
    return [sys.executable, str(Path(__file__)), numbers]


def _filter(errors: dict[str, int]) -> bytes:
    """Return the instructions of a filter (struct sock_filter)."""
    instructions = []
    for call, error in errors.items():
        number, _, option = call.partition(":")
        fail = (_RETURN, 0, 0, _FAIL | error)
        instructions.append(_LOAD_NUMBER)
        if option:
            instructions += [(_JUMP_IF_EQUAL, 0, 3, int(number)), _LOAD_OPTION[int(number)]]
            instructions += [(_JUMP_IF_EQUAL, 0, 1, int(option)), fail]
        else:
            instructions += [(_JUMP_IF_EQUAL, 0, 1, int(number)), fail]
    instructions.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


def main() -> None:
    pairs = [pair.split("=") for pair in sys.argv[1].split(",")]
    errors = {call: int(error) for call, error in pairs}
    code = ctypes.create_string_buffer(_filter(errors))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
