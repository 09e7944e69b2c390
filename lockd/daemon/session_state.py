"""The states of a session, and the events that change them."""

from enum import Enum
from typing import Final

from lockd.daemon.reactor import READABLE, WRITABLE


class SessionState(Enum):
    """The state of a session."""

    READING = "reading"
    """Calls are read and answered."""

    BEHIND = "behind"
    """More calls have arrived than may be answered in one turn of the reactor. They are answered in the next
    turns. Nothing more is read before that."""

    WAITING = "waiting"
    """A worker thread is busy with a call. Nothing more is read before that call is answered."""

    UNREAD = "unread"
    """The client does not read its replies. Nothing more is read from it, so the unsent replies are at most
    those of one turn."""

    WAITING_UNREAD = "waiting, unread"
    """A worker thread is busy with a call, and the client does not read the replies to its earlier calls."""

    CLOSED = "closed"
    """The connection has ended."""


class SessionEvent(Enum):
    """An event that may change the state of a session.

    The end of the connection is not an event: it leads from every state to ``CLOSED``.
    """

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
    # If the replies are sent without a delay, the state stays the same.
    (_S.READING, _E.REPLIES_SENT): _S.READING,
    (_S.BEHIND, _E.REPLIES_SENT): _S.BEHIND,
    (_S.WAITING, _E.REPLIES_SENT): _S.WAITING,
}
"""The next state, by the present state and the event. Pairs that are not listed cannot occur."""

WATCHED: Final = {
    _S.READING: READABLE,
    # Changing the watched events for one turn would cost two system calls. Instead, the event is ignored in
    # this state.
    _S.BEHIND: READABLE,
    _S.WAITING: 0,
    _S.UNREAD: WRITABLE,
    _S.WAITING_UNREAD: WRITABLE,
}
"""The events that the reactor reports for the connection, by the state. A hang-up is always reported
(epoll_ctl(2))."""
