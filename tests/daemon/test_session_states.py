"""The states of a session: what leads from one to another, as a table."""

from itertools import product

import pytest

from lockd.daemon.reactor import READABLE, WRITABLE
from lockd.daemon.session_state import TRANSITIONS, WATCHED, SessionEvent, SessionState

OPEN = [state for state in SessionState if state is not SessionState.CLOSED]


def reachable(start: SessionState) -> set[SessionState]:
    """Return the states that a session can come to, with its first one."""
    found = {start}
    while True:
        further = {after for (before, _), after in TRANSITIONS.items() if before in found} - found
        if not further:
            return found
        found |= further


def event_leading(before: SessionState, after: SessionState) -> set[SessionEvent]:
    return {event for (state, event), next_one in TRANSITIONS.items() if (state, next_one) == (before, after)}


def test_a_new_session_can_come_to_every_open_state() -> None:
    assert reachable(SessionState.READING) == set(OPEN)


@pytest.mark.parametrize("state", OPEN)
def test_a_session_can_get_back_to_reading_from_every_open_state(state: SessionState) -> None:
    assert SessionState.READING in reachable(state)


@pytest.mark.parametrize("state", OPEN)
def test_an_open_session_watches_for_what_leads_on(state: SessionState) -> None:
    assert state in WATCHED


def test_a_closed_session_watches_for_nothing() -> None:
    assert set(WATCHED) == set(OPEN)


def test_a_closed_session_stays_closed() -> None:
    """And only the end of the connection closes it, which is no event of the table."""
    assert SessionState.CLOSED not in {state for state, _ in TRANSITIONS}
    assert SessionState.CLOSED not in TRANSITIONS.values()


@pytest.mark.parametrize("event", SessionEvent)
def test_each_event_changes_some_state(event: SessionEvent) -> None:
    assert any(event is happened and before is not after for (before, happened), after in TRANSITIONS.items())


@pytest.mark.parametrize("state", OPEN)
def test_replies_may_be_sent_or_stuck_in_every_open_state(state: SessionState) -> None:
    """Replies to earlier calls may be waiting in each of them."""
    assert (state, SessionEvent.REPLIES_STUCK) in TRANSITIONS
    if state not in {SessionState.UNREAD, SessionState.WAITING_UNREAD}:
        assert TRANSITIONS[state, SessionEvent.REPLIES_SENT] is state


@pytest.mark.parametrize(("state", "event"), list(product(OPEN, SessionEvent)))
def test_a_client_that_does_not_read_is_not_read_from(state: SessionState, event: SessionEvent) -> None:
    """It is read from again only when all its replies are sent."""
    after = TRANSITIONS.get((state, event))
    unread = {SessionState.UNREAD, SessionState.WAITING_UNREAD}
    if state in unread and after not in unread and after is not None:
        assert event is SessionEvent.REPLIES_SENT
    if event is SessionEvent.REPLIES_STUCK:
        assert after in unread


@pytest.mark.parametrize(("state", "event"), list(product(OPEN, SessionEvent)))
def test_a_session_waits_exactly_while_a_thread_is_busy(state: SessionState, event: SessionEvent) -> None:
    after = TRANSITIONS.get((state, event))
    waiting = {SessionState.WAITING, SessionState.WAITING_UNREAD}
    if after is None:
        return
    if state in waiting:
        assert (after not in waiting) == (event is SessionEvent.CALL_FINISHED)
    else:
        assert (after in waiting) == (event is SessionEvent.CALL_DEFERRED)


def test_what_was_held_up_is_served_before_more_is_read() -> None:
    """After a thread's call or unread replies, calls may be left over from the turn before."""
    for event in (SessionEvent.CALL_FINISHED, SessionEvent.REPLIES_SENT):
        changes = {
            (before, after)
            for (before, happened), after in TRANSITIONS.items()
            if happened is event and before is not after
        }
        assert SessionState.READING not in {after for _, after in changes}
    assert event_leading(SessionState.BEHIND, SessionState.READING) == {SessionEvent.ALL_SERVED}
    leading = {before for (before, _), after in TRANSITIONS.items() if after is SessionState.READING}
    assert leading == {SessionState.READING, SessionState.BEHIND}


def test_what_is_watched_for_is_what_the_state_needs() -> None:
    assert WATCHED == {
        SessionState.READING: READABLE,
        SessionState.BEHIND: READABLE,
        SessionState.WAITING: 0,
        SessionState.UNREAD: WRITABLE,
        SessionState.WAITING_UNREAD: WRITABLE,
    }


def test_a_state_that_waits_for_no_thread_watches_for_something() -> None:
    """Otherwise nothing would ever change it."""
    assert {state for state in OPEN if not WATCHED[state]} == {SessionState.WAITING}
