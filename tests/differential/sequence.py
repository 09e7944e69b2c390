"""A random sequence of calls, connections and outside events, the same for both daemons."""

import fcntl
import os
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import NoReturn, TypeAlias

from lockd.wire.errors import ErrorReply
from lockd.wire.frames import HEADER
from tests.differential import vocabulary
from tests.differential.lines import GuestLine, Line
from tests.differential.pair import PING, Answer, Pair, without_holder
from tests.differential.vocabulary import Vocabulary

_LINES = 6
_STEPS_BETWEEN_INSPECTIONS = 100
_HISTORY = 12
_BATCH_BYTES = 20_000

Outcome: TypeAlias = tuple[int, int, str]
"""Procedure, error code (0 for success), and the format string of the error's message."""


class Difference(AssertionError):
    """The daemons behave differently."""


class Sequence:
    """A sequence of random steps that a seed determines; it counts how often each outcome occurred.

    :ivar calls: number of frames that were sent to each daemon, without the PINGs that separate the answers.
    """

    def __init__(self, pair: Pair, seed: int) -> None:
        self._pair = pair
        self._seed = seed
        self._random = Random(seed)
        self._words = Vocabulary(self._random)
        self._lines: list[Line] = []
        self._locked_outside: dict[str, list[int]] = {}
        self._history: list[str] = []
        self._steps = 0
        self.calls = 0
        self.outcomes: Counter[Outcome] = Counter()
        for side in pair.sides:
            vocabulary.furnish(side.root)

    def run(self, calls: int) -> None:
        """Make steps until the given number of calls has been made in all.

        :raises Difference: the daemons differ; names the seed, the last steps, and both answers.
        """
        while self.calls < calls:
            self._step()
            self._steps += 1
            if self._steps % _STEPS_BETWEEN_INSPECTIONS == 0:
                self.inspect()

    def inspect(self) -> None:
        """Compare both daemons' locks in the kernel, and their files."""
        for what in ("locks", "files"):
            ours, theirs = (getattr(side, what)() for side in self._pair.sides)
            if ours != theirs:
                missing = [item for item in _items(theirs) if item not in _items(ours)]
                excess = [item for item in _items(ours) if item not in _items(theirs)]
                self._fail(f"{what}: lockd lacks {missing}, and has {excess} in addition")

    def end(self) -> None:
        """Close all lines and files."""
        for line in self._lines:
            line.close()
        for fds in self._locked_outside.values():
            for fd in fds:
                os.close(fd)

    # Steps

    def _step(self) -> None:
        chance = self._random.random()
        if not self._lines or (chance < 0.03 and len(self._lines) < _LINES):
            self._connect()
        elif chance < 0.055:
            self._disconnect(self._random.choice(self._lines))
        elif chance < 0.06:
            self._lock_or_unlock_outside()
        elif chance < 0.065:
            self._change_files_outside()
        elif chance < 0.07:
            self._end_badly()
        elif chance < 0.1:
            line = self._random.choice(self._lines)
            self._exchange(line, self._calls(line, self._random.choice((2, 3, 10, 80))))
        elif chance < 0.11:
            self._in_two_halves()
        else:
            line = self._random.choice(self._lines)
            self._exchange(line, [self._call(line)])

    def _connect(self) -> None:
        if self._random.random() < 0.02:
            guest = GuestLine(self._pair)
            self._note(f"a guest connects from pid {guest.pid}")
            self._lines.append(guest)
            self._exchange(guest, [self._words.register(guest.pid)])
        else:
            line = Line(self._pair)
            self._note("connect")
            self._lines.append(line)
            if self._random.random() < 0.9:
                self._exchange(line, [self._words.register()])

    def _disconnect(self, line: Line) -> None:
        self._note(f"line {self._number(line)} ends")
        line.close()
        self._lines.remove(line)

    def _end_badly(self) -> None:
        """Send data for which a daemon closes the connection. Not as a guest: both daemons would kill it."""
        plain = [line for line in self._lines if not line.is_guest]
        if plain:
            line = self._random.choice(plain)
            calls = self._calls(line, self._random.choice((0, 0, 1, 3)))
            self._exchange(line, [*calls, self._words.last_words()], closes=True)
            self._disconnect(line)

    def _call(self, line: Line) -> bytes:
        words = self._words
        # When a guest dies, lockd ends all its holdings. On purpose this includes two cases that virtlockd
        # misses: two holdings on one resource, and holdings from before a second registration. A guest makes
        # neither here.
        weighted = [
            (partial(words.acquire, shared=not line.is_guest), 36),
            (words.release, 30),
            (words.create_resource, 5),
            (words.delete_resource, 5),
            (words.create_lockspace, 6),
            (words.new, 2),
            (words.register, 0 if line.is_guest else 4),
            (words.restrict, 0.7),
            (words.malformed, 4),
            (words.stray, 4),
            (words.keepalive, 2),
        ]
        makers, weights = zip(*weighted, strict=True)
        frame: bytes = self._random.choices(makers, weights)[0]()
        return frame

    def _calls(self, line: Line, number: int) -> list[bytes]:
        """Return calls to send at once: no more than a socket takes, because no answer is read yet."""
        calls: list[bytes] = []
        while len(calls) < number and sum(map(len, calls)) < _BATCH_BYTES:
            calls.append(self._call(line))
        return calls

    def _in_two_halves(self) -> None:
        """Send a part of a frame on one line, make a call on another line, and then send the rest."""
        plain = [line for line in self._lines if not line.is_guest]
        if len(plain) < 2:
            return
        slow, other = self._random.sample(plain, 2)
        frame = self._call(slow)
        cut = self._random.randrange(len(frame))
        self._note(f"line {self._number(slow)} says {cut} bytes of {frame[:100]!r}")
        slow.say(frame[:cut])
        self._exchange(other, [self._call(other)])
        self._exchange(slow, [frame], said=cut)

    def _lock_or_unlock_outside(self) -> None:
        path = self._random.choice(vocabulary.FILES_LOCKED_BY_OTHERS)
        held = self._locked_outside.pop(path, None)
        if held is not None:
            self._note(f"unlock {path} outside")
            for fd in held:
                os.close(fd)
            return
        self._note(f"lock {path} outside")
        mode = self._random.choice((fcntl.LOCK_EX, fcntl.LOCK_SH))
        with suppress(OSError):
            for file in self._both(path):
                fd = os.open(file, os.O_RDWR)
                self._locked_outside.setdefault(path, []).append(fd)
                fcntl.lockf(fd, mode | fcntl.LOCK_NB, 1)

    def _change_files_outside(self) -> None:
        """Remove or replace a file that no daemon holds: lockd would notice that some time later, on purpose."""
        removes = self._random.random() < 0.5
        path = self._random.choice(
            vocabulary.FILES_REMOVED_BY_OTHERS if removes else vocabulary.IMAGES_REPLACED_BY_OTHERS
        )
        if any(path == file for side in self._pair.sides for file, *_ in side.locks()):
            return
        if removes:
            self._note(f"remove {path} outside")
            for file in self._both(path):
                file.unlink(missing_ok=True)
        else:
            self._note(f"replace {path} outside")
            for file in self._both(path):
                new = Path(f"{file}.new")
                new.write_bytes(b"another image")
                new.rename(file)

    def _both(self, path: str) -> list[Path]:
        return [Path(f"{side.root}{path}") for side in self._pair.sides]

    # Answers

    def _exchange(self, line: Line, frames: list[bytes], *, said: int = 0, closes: bool = False) -> None:
        self._note(f"line {self._number(line)}: " + ", ".join(repr(frame[:300]) for frame in frames))
        self.calls += len(frames)
        ours, theirs = line.exchange(b"".join(frames)[said:], frames.count(PING))
        ours = without_holder(ours)
        if ours != theirs:
            self._fail(_contrast(ours, theirs))
        if theirs.then != ("closed" if closes else "open"):
            self._fail(f"the line is {theirs.then}")
        for answer in theirs.frames:
            self.outcomes[_outcome(answer)] += 1

    def _number(self, line: Line) -> int:
        return self._lines.index(line)

    def _note(self, step: str) -> None:
        self._history.append(step)
        del self._history[:-_HISTORY]

    def _fail(self, what: str) -> NoReturn:
        steps = "\n".join(f"  {step}" for step in self._history)
        raise Difference(f"seed {self._seed}, after {self.calls} calls:\n{steps}\n{what}")


def _items(found: object) -> list[object]:
    return list(found.items()) if isinstance(found, dict) else list(found)  # type: ignore[call-overload]


def _outcome(frame: bytes) -> Outcome:
    _, _, _, procedure, _, _, status = HEADER.unpack_from(frame)
    if not status:
        return procedure, 0, ""
    error = ErrorReply.decode(frame[HEADER.size :])
    return procedure, error.code, error.str1 or ""


def _contrast(ours: Answer, theirs: Answer) -> str:
    """Describe the first difference between two answers."""
    pairs = enumerate(zip_longest([*ours.frames, ours.then], [*theirs.frames, theirs.then]), 1)
    number, (our, their) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    return f"frame {number} of lockd's answer, or what followed:\n  {our!r:.700}\nand virtlockd's:\n  {their!r:.700}"
