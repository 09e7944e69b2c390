"""A call that a program refuses, and the reply that says why."""

from lockd.wire.errors import ErrorReply


class Refused(Exception):
    """The call is not carried out.

    :ivar reply: the error that the client gets.
    """

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.message)
        self.reply = reply
