"""The exception for a call that a program refuses."""

from lockd.wire.errors import ErrorReply


class Refused(Exception):
    """The call is refused, and nothing has changed.

    :param reply: the error for the client.
    :ivar reply: see the parameter.
    """

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.message)
        self.reply = reply
