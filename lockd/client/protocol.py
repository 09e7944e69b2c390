"""The client's side of the protocol, without I/O: calls become bytes, and bytes become replies.

Calls are answered in order. A caller may give up waiting (a timeout, a cancelled task): the reply is then
taken when it comes, and what it changed is known all the same.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from lockd.client.errors import ConnectionLost, Refused, refusal
from lockd.wire import frames
from lockd.wire.errors import ErrorReply
from lockd.wire.frames import Frame, FrameReader, FrameType, Status

_SERIAL_END: Final = 1 << 32


def _nothing() -> None:
    pass


class Call(NamedTuple):
    """A call to make.

    :ivar succeeded: called when the reply says so.
    """

    procedure: int
    payload: bytes
    succeeded: Callable[[], None] = _nothing


class Protocol:
    """One connection's calls of one program."""

    def __init__(self, program: int, version: int) -> None:
        self._program = program
        self._version = version
        self._reader = FrameReader(frames.LENGTH_MAX)
        self._serial = 0
        self._unanswered: deque[tuple[int, Call]] = deque()
        self._latest: Frame | None = None

    def send(self, call: Call) -> bytes:
        """Return the bytes that make ``call``."""
        self._serial = (self._serial + 1) % _SERIAL_END
        self._unanswered.append((self._serial, call))
        self._latest = None
        return frames.encode(
            self._program, self._version, call.procedure, FrameType.CALL, self._serial, payload=call.payload
        )

    @property
    def answered(self) -> bool:
        """Whether all calls have their replies."""
        return not self._unanswered

    def receive(self, data: bytes) -> None:
        """Take the next bytes of the stream; none at all mean its end.

        :raises ConnectionLost: it has ended, or what came is no reply to what was called.
        """
        if not data:
            raise ConnectionLost("the daemon closed the connection")
        self._reader.feed(data)
        try:
            while (frame := self._reader.next_frame()) is not None:
                if frame.type == FrameType.REPLY:
                    self._take(frame)
        except frames.FrameError as error:
            raise ConnectionLost(f"the daemon sent {error}") from None

    def _take(self, reply: Frame) -> None:
        if not self._unanswered or self._unanswered[0][0] != reply.serial:
            raise ConnectionLost(f"the daemon sent a reply to call {reply.serial}, which nobody waits for")
        _, call = self._unanswered.popleft()
        if reply.status == Status.OK:
            call.succeeded()
        self._latest = reply

    def result(self) -> bytes:
        """Return the payload of the reply to the latest call, which has to be ``answered``.

        :raises Refused: the daemon has answered with an error.
        """
        reply = self._latest
        if reply is None:
            raise RuntimeError("no call was answered")
        if reply.status == Status.OK:
            return reply.payload
        try:
            error = ErrorReply.decode(reply.payload)
        except ValueError:
            raise Refused(ErrorReply(0, 0, "the daemon sent an error that cannot be read")) from None
        raise refusal(error)
