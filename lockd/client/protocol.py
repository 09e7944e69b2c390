"""The client side of the protocol, without I/O: calls are encoded to bytes, and bytes are decoded to replies.

The daemon answers calls in order. A caller may stop waiting for a reply, because of a timeout or because its
task is cancelled. The reply is then processed when it arrives, so that the client still knows what the call
has changed.
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
    """A call to send.

    :ivar procedure: the number of the procedure.
    :ivar payload: the encoded arguments.
    :ivar succeeded: called when the daemon has answered with status OK.
    """

    procedure: int
    payload: bytes
    succeeded: Callable[[], None] = _nothing


class Protocol:
    """The calls of one connection to one program.

    :param program: the number of the program.
    :param version: the version of the program.
    """

    def __init__(self, program: int, version: int) -> None:
        self._program = program
        self._version = version
        self._reader = FrameReader(frames.LENGTH_MAX)
        self._serial = 0
        self._unanswered: deque[tuple[int, Call]] = deque()
        self._latest: Frame | None = None

    def send(self, call: Call) -> bytes:
        """Encode a call. Its reply is expected from now on.

        :param call: the call.
        :returns: the bytes to send. All of them have to be sent.
        """
        self._serial = (self._serial + 1) % _SERIAL_END
        self._unanswered.append((self._serial, call))
        self._latest = None
        return frames.encode(
            self._program, self._version, call.procedure, FrameType.CALL, self._serial, payload=call.payload
        )

    @property
    def answered(self) -> bool:
        """Whether every call has been answered."""
        return not self._unanswered

    def receive(self, data: bytes) -> None:
        """Process the next bytes of the stream.

        :param data: the bytes; empty at the end of the stream.
        :raises ConnectionLost: the stream has ended, or the bytes are not a reply to a call that was sent.
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
        """Return the payload of the reply to the latest call.

        :returns: the payload.
        :raises Refused: the daemon has answered with an error.
        :raises RuntimeError: the latest call has not been answered.
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
