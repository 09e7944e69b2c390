"""The values that arguments of fuzzed calls are drawn from: texts, paths and numbers that programs get wrong."""

from typing import Any

from tests.differential.pair import SLOW_TREE, TREE

TEXTS = [
    b"",
    b"\0",
    b"a\0b",
    b" ",
    b"vm1",
    b"0",
    b"1",
    b".",
    b"..",
    b"../up",
    b"../../../../etc/passwd",
    b"a/b",
    b"/",
    b"//",
    b"%s%n%d%99999999d",
    b"{0.__class__}",
    b"'\"\\`$(false)",
    b"\n\r\t",
    b"\x7f\x08",
    b"\x1b[2J\x1b]0;title\x07",
    "\x9b31m".encode(),  # CSI, as one control character of the second set
    "\x85".encode(),  # NEL: a line break to some readers
    "\u202eabc".encode(),  # text that follows is displayed from right to left
    "\u2028\u2029".encode(),
    "ü".encode(),
    "u\u0308".encode(),
    "\U0001f512".encode(),
    "\ufeff".encode(),
    "\uffff".encode(),
    b"\xff\xfe",
    b"\xc3",
    b"\xed\xa0\x80",  # a surrogate, as UTF-8 does not allow it
    b"\xf4\x90\x80\x80",  # a character beyond Unicode
    b"\xc0\x80",  # NUL, as UTF-8 does not allow it
]

LONG_TEXTS = [
    b"x" * 79,
    b"x" * 80,
    b"x" * 255,
    b"x" * 256,
    b"x" * 4095,
    b"x" * 4096,
    b"/" * 4096,
    b"x" * 65535,
    b"x" * 65536,
    b"x" * 65537,
    b"\x01" * 65536,
    b"\xff" * 65536,
    "\u202e".encode() * 21845,
]

DIRECTORY = "/run/guarded"
"""Where the files of the guests are that must keep their locks."""
GUARDED_DISK = f"{DIRECTORY}/disk"
GUARDED_LOCKSPACE = f"{DIRECTORY}/leases"
GUARDED_LEASE = "lease"

LOCKSPACES = [
    "",
    f"{TREE}/leases",
    f"{TREE}/deep/er/leases",
    f"{SLOW_TREE}/leases",
    GUARDED_LOCKSPACE,
]
"""Those that most calls name. Others are `PATHS`."""

LEASES = [*(str(number) for number in range(8)), GUARDED_LEASE]

DISKS = [
    *(f"{TREE}/images/{number}" for number in range(6)),
    *(f"{SLOW_TREE}/images/{number}" for number in range(3)),
    *(f"{TREE}/made/{number}" for number in range(4)),
    f"{SLOW_TREE}/made/0",
    GUARDED_DISK,
]

PATHS = [
    "/",
    "relative",
    TREE,
    f"{TREE}/",
    f"{TREE}//images//0",
    f"{TREE}/images/../images/./1",
    f"{TREE}/images/0/",
    f"{TREE}/images/0/below",
    f"{TREE}/images/link",
    f"{TREE}/images/dangling",
    f"{TREE}/images/missing/0",
    f"{TREE}/linked/image",
    f"{TREE}/linked/leases",
    f"{TREE}/loop",
    f"{TREE}/loop/below",
    f"{TREE}/fifo",
    f"{TREE}/socket",
    f"{TREE}/leases/0",
    f"{TREE}/leases/1",
    f"{TREE}/unknown",
    f"{TREE}/slash/",
    f"{TREE}/./dotted",
    f"{TREE}/%s%n",
    f"{TREE}/" + "x" * 255,
    f"{TREE}/" + "x" * 256,
    f"{TREE}/" + ("y" * 240 + "/") * 16,
    "/" * 4095,
    SLOW_TREE,
    f"{SLOW_TREE}/leases/1",
    f"{SLOW_TREE}/../tree/images/2",
    f"{GUARDED_LOCKSPACE}/{GUARDED_LEASE}",
    f"{GUARDED_LOCKSPACE}/../disk",
    f"/proc/self/root{GUARDED_DISK}",
    "/run",
    "/run/virtlockd.pid",
    "/run/virtlockd-restart-exec.json",
    "/run/libvirt",
    "/run/libvirt/virtlockd-sock",
    "/run/libvirt/virtlockd-admin-sock",
    "/run/log/0",
    "/etc/passwd",
    "/etc/libvirt/virtlockd.conf",
    "/tmp/new",
    "/nowhere/at/all",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/missing",
    "/proc/nothing",
    "/proc/1/mem",
    "/proc/self/mem",
    "/proc/self/exe",
    "/proc/self/cwd",
    "/proc/self/environ",
    "/proc/locks",
    "/proc/sys/kernel/core_pattern",
    "/proc/sysrq-trigger",
    "/sys/power/state",
    "/dev/stdin",
    *(f"/proc/self/fd/{number}" for number in range(16)),
]

OWNER_PIDS = [4_000_001, 4_000_002, 4_000_003, 2**31 - 1, 2**31, 2**32 - 1, 0]
"""Pids that no process has. What is registered as the owner may be killed."""

NUMBERS = [
    *range(9),
    16,
    27,
    28,
    29,
    31,
    32,
    33,
    64,
    255,
    256,
    1024,
    4096,
    65535,
    65536,
    65537,
    2**20,
    4194304,
    4194305,
    33554435,
    33554436,
    33554437,
    2**31 - 1,
    2**31,
    2**32 - 4,
    2**32 - 1,
]
"""Numbers of 32 bits."""

LARGE_NUMBERS = [*NUMBERS, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]
"""Numbers of 64 bits."""

SERVERS = ["virtlockd", "admin"]

PARAMETERS = [
    "nclients_max",
    "nclients_unauth_max",
    "minWorkers",
    "maxWorkers",
    "prioWorkers",
    "nWorkers",
    "nclients",
]

LOG_OUTPUTS = [
    "",
    "1:stderr",
    "3:stderr",
    "4:stderr 1:stderr",
    "1:journald",
    "1:syslog:virtlockd",
    "1:syslog:\u202e",
    "1:file:/run/log/0",
    "4:file:/run/log/1 3:stderr",
    "1:file:/run/log/../log/0",
    "1:file:/run/log",
    "1:file:/etc/passwd",
    "1:file:/dev/full",
    "1:file:/dev/null 3:stderr",
    "1:file:/proc/self/fd/1",
    f"1:file:{TREE}/images/0",
    f"1:file:{GUARDED_DISK}",
    f"1:file:{TREE}/fifo",
    f"1:file:{TREE}/socket",
    f"1:file:{TREE}/loop",
    "1:file:",
    "1:file",
    "0:stderr",
    "5:stderr",
    "x:stderr",
    "1:nothing",
    "+1:stderr",
    " ",
    ":",
    "1:stderr " * 200,
    "1:stderr " * 300,
]

LOG_FILTERS = [
    "",
    "1:lockd",
    "4:lockd",
    "1:rpc 4:util",
    "1:*",
    "1:[",
    "1:" + "*a" * 40,
    "1:+",
    "2:locking.lock_daemon",
    "9:x",
    "nothing",
    "1:" + "?" * 70000,
]

DOCUMENTS = [
    b"",
    b"{",
    b"}",
    b"[]",
    b"{}",
    b"null",
    b"0",
    b'""',
    b"NaN",
    b"\xef\xbb\xbf{}",
    b"{}{}",
    b'{"a":1,}',
    b'{"\\ud800":1}',
    b'{"after":1,"after":"x"}',
    b'{"after":1e999}',
    b'{"after":-1e999}',
    b'{"after":' + b"9" * 4000 + b"}",
    b'{"after":' + b"9" * 5000 + b"}",
    b"[" * 1000 + b"]" * 1000,
    b"[" * 100_000,
    b'{"a":' * 1000 + b"1" + b"}" * 1000,
    b'{"a":' * 100_000,
    b'{"a":"\\u0000"}',
    b'{"a":"\xff"}',
    b'{"a":"\\u"}',
    b"\0",
    b" " * 70_000 + b"{}",
]
"""Whole documents for the status program."""

JSON_TEXTS = [
    "\ud800",
    "\udfff",
    "\udc00\ud800",
    "\ud83d\udd12",
    "\udcff",
    "\udc80/\udcfe",
    "a\ud800b",
    f"{TREE}/\ud800",
]
"""Texts with lone surrogates: JSON can carry them, and UTF-8 cannot."""

JSON_VALUES: list[Any] = [
    *(None, True, False, -1, 0.5, 1e308, float("inf"), float("nan"), 2**63, 2**64, 10**30, -(10**30)),
    *([], {}, [[]], {"lockspace": ""}, [""] * 50),
]
"""Values of other types than those expected."""
