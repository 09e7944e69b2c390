"""With which error numbers a system call may fail, as its manual page lists them.

Left out are EBADF, EFAULT, ENOTSOCK and those EINVAL that only a wrong call can get: no outer trouble causes them.
EIO, ESTALE and EOPNOTSUPP are added where a file server may return them, as the pages of files do not list what a file
system may add ("Other errors may occur").

Also left out is what the page lists and the kernel cannot do: epoll_ctl allocates memory only to add a descriptor; only a
file system can make close and fstat fail, so they are played on files; and a descriptor that was opened with O_PATH has
nothing to write out when it is closed; and a socket always knows its type, its address and its peer.

Not played are the calls of the interpreter that no outer trouble makes fail in the middle of the daemon's work: brk,
mmap, munmap, mprotect and futex (Python turns a failed mmap into MemoryError anywhere), rt_sigaction and the like,
calls that cannot fail (getpid, umask), and the files that Python opens for its own modules: a program that cannot be
loaded is refused before an upgrade, by ``virtlockd --version``.
"""

import re

from tests.faults.tracer import Call

_PATH = "EACCES ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR"
_FILE_SERVER = "EIO ESTALE"
_NO_FILE = r"^\w+\(\d+<(socket:|pipe:|anon_inode:|/proc/|/sys/)"
"""A descriptor that is closed, and asked for its status, without a file system that could make that fail."""

_WAKE_UP = r'"(\\0|\\20|\\21)+", |, 65536, 0, NULL'
"""Bytes through the pair of sockets with which trio's threads and signals wake its loop."""

_SIGNAL = r'<socket:.*>, "\\17", 1\)'
"""Likewise, the byte by which Python's handler of SIGTERM does so."""

_PAGES = {
    # Call, what its arguments have in them, the page in section 2, the numbers. The first line that fits counts.
    ("openat", ""): (
        "open",
        f"{_PATH} {_FILE_SERVER} EBUSY EDQUOT EEXIST EFBIG EINTR EISDIR EMFILE ENFILE ENODEV ENOSPC ENXIO EOPNOTSUPP"
        " EOVERFLOW EPERM EAGAIN EROFS ETXTBSY",
    ),
    ("openat2", ""): (
        "openat2",
        f"{_PATH} {_FILE_SERVER} EAGAIN EDQUOT EEXIST EINTR EISDIR EMFILE ENFILE ENOSPC ENOSYS ENXIO EPERM EROFS"
        " ETXTBSY EXDEV",
    ),
    ("newfstatat", _NO_FILE): ("stat", ""),
    ("newfstatat", ""): ("stat", f"{_PATH} {_FILE_SERVER} EOVERFLOW"),
    ("fstat", ""): ("stat", f"ENOMEM EOVERFLOW {_FILE_SERVER}"),
    ("statx", ""): ("statx", f"{_PATH} {_FILE_SERVER}"),
    ("access", ""): ("access", f"{_PATH} EIO EROFS"),
    ("readlink", ""): ("readlink", f"{_PATH} EINVAL EIO"),
    ("readlinkat", ""): ("readlink", f"{_PATH} EINVAL EIO"),
    ("fcntl", "F_SETLK,.*F_UNLCK"): ("fcntl", f"EINTR ENOLCK {_FILE_SERVER}"),
    ("fcntl", "F_SETLK"): ("fcntl", f"EACCES EAGAIN EINTR ENOLCK EOPNOTSUPP {_FILE_SERVER}"),
    ("fcntl", "F_GETLK"): ("fcntl", f"EINTR ENOLCK EOPNOTSUPP {_FILE_SERVER}"),
    ("fcntl", "F_DUPFD"): ("fcntl", "EMFILE"),
    ("close", _NO_FILE): ("close", ""),
    ("close", ""): ("close", "EDQUOT EINTR EIO ENOSPC"),
    ("read", "<socket:"): ("recv", "EAGAIN ECONNRESET EINTR ENOMEM"),
    ("read", "<pipe:"): ("read", "EINTR"),
    ("read", "eventfd"): ("eventfd", "EAGAIN"),
    ("read", ""): ("read", f"EINTR EISDIR {_FILE_SERVER}"),
    ("recvfrom", _WAKE_UP): ("recv", "EINTR"),
    ("recvfrom", ""): ("recv", "EAGAIN ECONNRESET EINTR ENOMEM"),
    ("recvmsg", ""): ("recv", "EAGAIN ECONNRESET EINTR ENOMEM"),
    ("write", _SIGNAL): ("send", "EINTR"),
    ("write", "<socket:"): ("send", "EAGAIN ECONNRESET EINTR ENOBUFS ENOMEM EPIPE"),
    ("write", "eventfd"): ("eventfd", "EAGAIN"),
    ("write", ""): ("write", f"EDQUOT EFBIG EINTR ENOSPC EPERM {_FILE_SERVER}"),
    ("pwrite64", ""): ("pwrite", f"EDQUOT EFBIG EINTR ENOSPC EPERM {_FILE_SERVER}"),
    ("sendto", _WAKE_UP): ("send", "EINTR"),
    ("sendto", ""): ("send", "EAGAIN ECONNREFUSED ECONNRESET EINTR EMSGSIZE ENOBUFS ENOMEM ENOTCONN EPIPE"),
    ("sendmsg", ""): ("send", "EAGAIN ECONNREFUSED ECONNRESET EINTR EMSGSIZE ENOBUFS ENOMEM ENOTCONN EPIPE"),
    ("unlink", ""): ("unlink", f"{_PATH} {_FILE_SERVER} EBUSY EISDIR EPERM EROFS"),
    ("unlinkat", ""): ("unlink", f"{_PATH} {_FILE_SERVER} EBUSY EISDIR EPERM EROFS"),
    ("mkdir", ""): ("mkdir", f"{_PATH} EDQUOT EEXIST EINVAL EIO EMLINK ENOSPC EPERM EROFS"),
    ("mkdirat", ""): ("mkdir", f"{_PATH} EDQUOT EEXIST EINVAL EIO EMLINK ENOSPC EPERM EROFS"),
    ("mknod", ""): ("mknod", f"{_PATH} EDQUOT EEXIST EINVAL EIO ENOSPC EPERM EROFS"),
    ("mknodat", ""): ("mknod", f"{_PATH} EDQUOT EEXIST EINVAL EIO ENOSPC EPERM EROFS"),
    ("rename", ""): (
        "rename",
        f"{_PATH} EBUSY EDQUOT EINVAL EIO EISDIR EMLINK ENOSPC ENOTEMPTY EPERM EROFS EXDEV",
    ),
    ("ftruncate", ""): ("truncate", "EFBIG EINTR EIO EPERM"),
    ("fsync", ""): ("fsync", "EDQUOT EINTR EIO ENOSPC EROFS"),
    ("getdents64", ""): ("getdents", "EIO ENOENT"),
    ("accept4", ""): (
        "accept",
        "EAGAIN ECONNABORTED EINTR EMFILE ENFILE ENOBUFS ENOMEM EPERM EPROTO",
    ),
    ("epoll_create1", ""): ("epoll_create", "EMFILE ENFILE ENOMEM"),
    ("epoll_ctl", "EPOLL_CTL_ADD"): ("epoll_ctl", "ENOMEM ENOSPC"),
    ("epoll_wait", ""): ("epoll_wait", "EINTR"),
    ("poll", ""): ("poll", "EINTR ENOMEM"),
    ("ppoll", ""): ("poll", "EINTR ENOMEM"),
    ("getsockopt", "0x4d|SO_PEERPIDFD"): ("unix(7)", "EINVAL EMFILE ENFILE ENODATA ENOMEM ENOPROTOOPT ESRCH"),
    ("socket", ""): ("socket", "EACCES EAFNOSUPPORT EMFILE ENFILE ENOBUFS ENOMEM"),
    ("socketpair", ""): ("socketpair", "EMFILE ENFILE ENOMEM"),
    ("bind", ""): ("bind", f"{_PATH} EADDRINUSE EADDRNOTAVAIL EROFS"),
    ("listen", ""): ("listen", "EADDRINUSE EOPNOTSUPP"),
    ("connect", ""): ("connect", "EACCES EAGAIN ECONNREFUSED EINTR ENOENT EPERM EPROTOTYPE"),
    ("pidfd_open", ""): ("pidfd_open", "EINVAL EMFILE ENFILE ENODEV ENOMEM ENOSYS EPERM ESRCH"),
    ("pidfd_send_signal", ""): ("pidfd_send_signal", "EPERM ESRCH"),
    ("eventfd2", ""): ("eventfd", "EMFILE ENFILE ENODEV ENOMEM"),
    ("pipe2", ""): ("pipe", "EMFILE ENFILE"),
    ("dup", ""): ("dup", "EMFILE"),
    ("dup2", ""): ("dup", "EBUSY EINTR EMFILE"),
    ("clone", ""): ("clone", "EAGAIN ENOMEM"),
    ("clone3", ""): ("clone", "EAGAIN ENOMEM"),
    ("fork", ""): ("fork", "EAGAIN ENOMEM"),
    ("execve", ""): (
        "execve",
        f"{_PATH} E2BIG EAGAIN EINVAL EIO EISDIR ELIBBAD EMFILE ENFILE ENOEXEC EPERM ETXTBSY",
    ),
    ("memfd_create", ""): ("memfd_create", "EMFILE ENFILE ENOMEM"),
    ("prlimit64", "NULL, 0x|NULL, {"): ("prlimit", ""),
    ("prlimit64", ""): ("prlimit", "EPERM"),
    ("setsid", ""): ("setsid", "EPERM"),
    ("waitid", ""): ("wait", "ECHILD EINTR"),
    ("wait4", ""): ("wait", "ECHILD EINTR"),
}

PAGES = {name: page for (name, _), (page, _) in _PAGES.items()}
"""The manual page of each call that is played."""

NOT_PLAYED = frozenset(
    [
        "brk",
        "clock_nanosleep",
        "exit",
        "futex",
        "geteuid",
        "getpid",
        "getsockname",
        "gettid",
        "getuid",
        "ioctl",
        "lseek",
        "madvise",
        "mmap",
        "mprotect",
        "munmap",
        "prctl",
        "restart_syscall",
        "rseq",
        "rt_sigprocmask",
        "rt_sigreturn",
        "sched_yield",
        "set_robust_list",
        "umask",
    ]
)
"""The calls of a guest's life that are left out, for the reasons above. An ioctl here sets a flag of a descriptor, and a
lseek goes to a place in a file that is open."""


def errnos_of(call: Call) -> tuple[str, ...]:
    """Return the names of the error numbers that a call may fail with; none if the call is not played."""
    for (name, pattern), (_, errnos) in _PAGES.items():
        if call.name == name and re.search(pattern, call.text):
            return tuple(errnos.split())
    return ()
