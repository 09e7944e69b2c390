"""Record the system calls of a running thread, or have one of them fail or hang, with strace(1)."""

import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

_LINE = re.compile(r"(?:(?P<thread>\d+) +)?(?P<name>\w+)\(")
_REST = re.compile(r"(?:(?P<thread>\d+) +)?<\.\.\. (?P<name>\w+) resumed>")
_UNFINISHED = " <unfinished ...>"
"""What strace writes in two parts if another thread makes a call before the first one ends."""


_DETACH_SECONDS = 5


@dataclass(frozen=True)
class Call:
    """A system call, as strace shows it.

    :ivar thread: the number of the thread.
    :ivar name: the call.
    :ivar number: counted from 1, among the thread's calls of this name.
    :ivar text: strace's line, with the paths of descriptors, and without the number of the thread.
    """

    thread: int
    name: str
    number: int
    text: str


@dataclass(frozen=True)
class Fault:
    """What strace does to one call.

    :ivar name: the call.
    :ivar number: which one of the thread's calls of this name; None for all of them.
    :ivar error: the name of the error number that it fails with, instead of being made; None for a hang.
    :ivar seconds: how long it hangs before it is made.
    """

    name: str
    number: int | None
    error: str | None = None
    seconds: float = 0.0

    def options(self) -> list[str]:
        """Return strace's options."""
        what = f"error={self.error}" if self.error else f"delay_enter={int(self.seconds * 1e6)}"
        return ["-e", f"trace={self.name}", "-e", f"inject={self.name}:{what}:when={self.number or '1+'}"]

    def __str__(self) -> str:
        return f"{self.name} {self.number or 'always'} {self.error or f'hangs {self.seconds} s'}"


def can_trace() -> bool:
    """Return whether strace is there and may trace other processes."""
    return (
        shutil.which("strace") is not None
        and subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], check=False).returncode == 0
    )


def calls(trace: Path, thread: int = 0) -> list[Call]:
    """Return the calls of a trace, in the order in which they began.

    :param trace: strace's output.
    :param thread: the thread of the lines that name none.
    """
    counts: Counter[tuple[int, str]] = Counter()
    found: list[Call] = []
    unfinished: dict[int, int] = {}
    for line in trace.read_text(errors="replace").splitlines():
        if (match := _LINE.match(line)) is not None:
            who = int(match["thread"] or thread)
            counts[who, match["name"]] += 1
            if line.endswith(_UNFINISHED):
                unfinished[who] = len(found)
            text = line[match.start("name") :].removesuffix(_UNFINISHED)
            found.append(Call(who, match["name"], counts[who, match["name"]], text))
        elif (match := _REST.match(line)) is not None:
            index = unfinished.pop(int(match["thread"] or thread), None)
            if index is not None:
                found[index] = replace(found[index], text=found[index].text + line[match.end() :])
    return found


def hits(trace: Path) -> list[str]:
    """Return the lines of the calls that failed or hung, without the numbers of their threads."""
    return [
        line[match.start("name") :]
        for line in trace.read_text(errors="replace").splitlines()
        if line.endswith(("(INJECTED)", "(DELAYED)")) and (match := _LINE.match(line)) is not None
    ]


def hit(trace: Path) -> str | None:
    """Return the line of the first call that failed or hung; None if none did."""
    return next(iter(hits(trace)), None)


@contextmanager
def recorded(pid: int, trace: Path, paths: Sequence[Path] = ()) -> Iterator[None]:
    """Record all calls of all threads of a process; of those on some files only, if ``paths`` are given."""
    with _attached(pid, trace, ["-f", "-e", "trace=all", *_only(paths)]):
        yield


@contextmanager
def injected(thread: int, fault: Fault, trace: Path, paths: Sequence[Path] = ()) -> Iterator[None]:
    """Have one call of a running thread fail or hang. Its children and other threads are not touched.

    If ``paths`` are given, the calls on these files are counted alone, those of each thread of the process by
    themselves: threads that begin later are reached this way.
    """
    with _attached(thread, trace, [*fault.options(), *(["-f"] if paths else []), *_only(paths)]):
        yield


def _only(paths: Sequence[Path]) -> list[str]:
    return [option for path in paths for option in ("-P", str(path))]


@contextmanager
def _attached(thread: int, trace: Path, options: list[str]) -> Iterator[None]:
    trace.write_text("")
    command = ["strace", "-y", "-o", str(trace), *options, "-p", str(thread)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        said = ""
        while "attached" not in said:
            line = tracer.stderr.readline()
            assert line, said
            said += line
        yield
    finally:
        # At SIGINT, strace detaches and leaves the process running.
        tracer.send_signal(signal.SIGINT)
        try:
            tracer.communicate(timeout=_DETACH_SECONDS)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.communicate()
