"""The states of a session, and which event leads from one to another."""

from enum import Enum
from typing import Final

from lockd.daemon.reactor import READABLE, WRITABLE


class SessionState(Enum):
    """What a session does with its connection."""

    READING = "reading"
    """It reads, and serves what it reads."""

    BEHIND = "behind"
    """More calls have arrived than one turn of the reactor allows. They are served in the next turn, and nothing is read
    before."""

    WAITING = "waiting"
    """A worker thread is busy with a call. Nothing is read before that is done."""

    UNREAD = "unread"
    """The client does not read its replies. It is not read from either, so not more than the replies of one turn wait."""

    WAITING_UNREAD = "waiting, unread"
    """Both: a worker thread is busy with a call, and the client does not read the replies to the calls before."""

    CLOSED = "closed"
    """The connection has ended."""


class SessionEvent(Enum):
    """What changes a session's state. Every state ends with ``CLOSED`` when the connection is closed."""

    TURN_USED_UP = "as many calls were served as one turn allows"
    ALL_SERVED = "every call that has arrived is served"
    CALL_DEFERRED = "a call was left to a worker thread"
    CALL_FINISHED = "the worker thread is done with the call"
    REPLIES_STUCK = "the client does not read its replies"
    REPLIES_SENT = "all replies are sent"


_S: Final = SessionState
_E: Final = SessionEvent

TRANSITIONS: Final = {
    (_S.READING, _E.TURN_USED_UP): _S.BEHIND,
    (_S.BEHIND, _E.TURN_USED_UP): _S.BEHIND,
    (_S.BEHIND, _E.ALL_SERVED): _S.READING,
    (_S.READING, _E.CALL_DEFERRED): _S.WAITING,
    (_S.BEHIND, _E.CALL_DEFERRED): _S.WAITING,
    (_S.WAITING, _E.CALL_FINISHED): _S.BEHIND,
    (_S.WAITING_UNREAD, _E.CALL_FINISHED): _S.UNREAD,
    (_S.READING, _E.REPLIES_STUCK): _S.UNREAD,
    (_S.BEHIND, _E.REPLIES_STUCK): _S.UNREAD,
    (_S.UNREAD, _E.REPLIES_STUCK): _S.UNREAD,
    (_S.WAITING, _E.REPLIES_STUCK): _S.WAITING_UNREAD,
    (_S.WAITING_UNREAD, _E.REPLIES_STUCK): _S.WAITING_UNREAD,
    (_S.UNREAD, _E.REPLIES_SENT): _S.BEHIND,
    (_S.WAITING_UNREAD, _E.REPLIES_SENT): _S.WAITING,
    # Replies that are sent at once change nothing.
    (_S.READING, _E.REPLIES_SENT): _S.READING,
    (_S.BEHIND, _E.REPLIES_SENT): _S.BEHIND,
    (_S.WAITING, _E.REPLIES_SENT): _S.WAITING,
}
"""The next state, by the present one and what happens. What is not listed cannot happen."""

WATCHED: Final = {
    _S.READING: READABLE,
    # Watching for something else for one turn costs two system calls. What is reported meanwhile is ignored.
    _S.BEHIND: READABLE,
    _S.WAITING: 0,
    _S.UNREAD: WRITABLE,
    _S.WAITING_UNREAD: WRITABLE,
}
"""The events that a session watches for, by its state. A hang-up is reported in all of them (epoll_ctl(2))."""
