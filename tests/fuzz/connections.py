"""Connections that send frames and read the answers at the same time."""

import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from lockd.wire import keepalive, lock
from lockd.wire.errors import ErrorReply
from lockd.wire.frames import Frame, FrameReader, FrameType, Status, encode
from tests.fuzz.frames import Fuzzed

PATIENCE = 30.0
"""Seconds after which a call counts as never answered. Nothing that the daemon is asked for takes long, but worker
threads and the next program wait for processors on a busy machine."""

_SILENCE = 1000
"""Milliseconds without an answer after which the daemon is asked whether it still serves."""

_LAST = 0x7E57_0000
"""The serial of the last call of a stream, which is answered when all before it are. No other call has it."""

_MAX_REPLY = 64 << 20


Outcome: TypeAlias = tuple[int, int, int]
"""Program, procedure, and error code; 0 for success."""


class Unanswered(AssertionError):
    """The daemon does not answer."""


class WrongAnswer(AssertionError):
    """The daemon sends what is no answer."""


class Connection:
    """A connection to the lock socket or the admin socket.

    :ivar socket: the connected socket.
    :ivar to_admin: whether it leads to the admin socket.
    :ivar is_open: whether neither side has closed it.
    :ivar is_ending: whether the daemon has to close it after the frames that were queued.
    :ivar outcomes: counts answers by program, procedure and error code, which is 0 for success.
    """

    def __init__(self, connection: socket.socket, outcomes: Counter[Outcome], *, to_admin: bool) -> None:
        self.socket = connection
        self.socket.setblocking(False)
        self.to_admin = to_admin
        self.is_open = True
        self.outcomes = outcomes
        self._reader = FrameReader(_MAX_REPLY)
        self._output = memoryview(b"")
        self._descriptors: Sequence[int] = ()
        self._piece = 0
        self._last = 0
        self._answered = self._is_patient = True
        self.is_ending = False

    def say(
        self,
        frames: Sequence[Fuzzed],
        *,
        cut: int = 0,
        patient: bool = True,
        piece: int = 200_000,
        descriptors: Sequence[int] = (),
    ) -> None:
        """Queue frames, with a call behind them whose answer is waited for.

        That call is before the first frame that does not lead on, or that is cut off. If there is such a frame,
        the connection is shut down for writing behind the frames, and the daemon has to close it.

        :param cut: how many bytes of the last frame are not sent.
        :param patient: False to wait for nothing.
        :param piece: how many bytes are sent at once at most.
        :param descriptors: descriptors that are sent along with the first piece.
        """
        led = next((number for number, frame in enumerate(frames) if not frame.leads_on), len(frames))
        if cut:
            led = min(led, len(frames) - 1)
        self._last = (self._last + 1) % 0x10000
        barrier = encode(lock.PROGRAM, 1, 99, FrameType.CALL, _LAST + self._last)
        parts = [frame.data for frame in frames]
        data = b"".join((*parts[:led], barrier, *parts[led:]))
        self._output = memoryview(data)[: len(data) - cut]
        self._is_patient, self._answered = patient, not patient
        self.is_ending = led < len(frames)
        self._piece, self._descriptors = piece, descriptors

    @property
    def is_busy(self) -> bool:
        """Whether there are frames to send, or something to wait for."""
        return self.is_open and (
            bool(self._output) or not self._answered or (self.is_ending and self._is_patient)
        )

    @property
    def events(self) -> int:
        """The events of poll(2) to wait for."""
        return select.POLLIN | (select.POLLOUT if self._output else 0)

    def on_ready(self, events: int) -> None:
        """Read and write what is possible."""
        try:
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._receive()
            if events & select.POLLOUT and self.is_open:
                sent = socket.send_fds(self.socket, [self._output[: self._piece]], self._descriptors)
                self._output, self._descriptors = self._output[sent:], ()
                if self.is_ending and not self._output:
                    self.socket.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            self.is_open = False
        except BlockingIOError:
            return

    def _receive(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            self.is_open = False
            return
        frame = self._reader.receive(data)
        while frame is not None:
            self._check(frame)
            if frame.serial == _LAST + self._last and frame.procedure == 99:
                self._answered = True
            frame = self._reader.next_frame()

    def _check(self, frame: Frame) -> None:
        """Check that a frame is an answer.

        :raises WrongAnswer: it is none.
        """
        if frame.data == keepalive.PONG:
            return
        if frame.type != FrameType.REPLY or frame.status not in (Status.OK, Status.ERROR):
            raise WrongAnswer(f"the daemon sends {frame.data[:200]!r}")
        code = 0 if frame.status == Status.OK else ErrorReply.decode(frame.payload).code
        self.outcomes[frame.program, frame.procedure, code] += 1

    def hang_up(self) -> None:
        """End the connection, although another process has it open."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, whatever is on its way."""
        self.is_open = False
        self.socket.close()


def exchange(connections: Sequence[Connection], check_serves: Callable[[], None]) -> None:
    """Send what was queued, and read the answers.

    :param check_serves: raises an exception if the daemon serves nobody; called as long as there is no answer.
    :raises Unanswered: an answer has not come, although the daemon serves others.
    """
    poll = select.poll()
    by_number = {connection.socket.fileno(): connection for connection in connections}
    events: dict[int, int] = {}
    end = time.monotonic() + PATIENCE
    while busy := [number for number, connection in by_number.items() if connection.is_busy]:
        for number in events.keys() - set(busy):
            poll.unregister(number)
            del events[number]
        for number in busy:
            if events.get(number) != by_number[number].events:
                events[number] = by_number[number].events
                poll.register(number, events[number])
        ready = poll.poll(_SILENCE)
        for number, what in ready:
            by_number[number].on_ready(what)
        if ready:
            end = time.monotonic() + PATIENCE
            continue
        check_serves()
        if time.monotonic() > end:
            raise Unanswered(f"the daemon has not answered for {PATIENCE} seconds")


def connect(path: Path, seconds: float = PATIENCE) -> socket.socket:
    """Connect to a socket.

    :raises Unanswered: the daemon does not accept the connection.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(seconds)
    try:
        connection.connect(str(path))
    except OSError as error:
        raise Unanswered(f"the daemon accepts no connection: {error}") from None
    return connection
