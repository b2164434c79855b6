"""What becomes of the requests that were unanswered on a connection that closed."""

from __future__ import annotations

import itertools

import pytest

from reqpool_workers.close_verdict import Again, Closed, Verdict, Wait, what_to_retry

NONE, REPEATABLE, ALL = Again.NONE, Again.REPEATABLE, Again.ALL
END, DESCRIPTOR, SERVER = Wait.NONE, Wait.DESCRIPTOR, Wait.SERVER


@pytest.mark.parametrize(
    ("closed", "verdict"),
    [
        # Before the connection was ready.
        pytest.param(Closed(), Verdict(NONE, END, False, False), id="no connection in time"),
        pytest.param(Closed(unreachable=True), Verdict(NONE, SERVER, False, False), id="refused"),
        pytest.param(Closed(shortage=True), Verdict(NONE, DESCRIPTOR, False, False), id="no descriptor"),
        pytest.param(
            Closed(shortage=True, unreachable=True),
            Verdict(NONE, DESCRIPTOR, False, False),
            id="no descriptor says nothing of the server",
        ),
        pytest.param(Closed(shortened=True), Verdict(ALL, END, False, False), id="asks for less next time"),
        pytest.param(Closed(served=True), Verdict(ALL, END, False, False), id="cannot be pinned any more"),
        pytest.param(
            Closed(served=True, pinned=True), Verdict(ALL, END, False, False), id="closed while being pinned"
        ),
        # After requests were sent on it.
        pytest.param(Closed(sent=True), Verdict(NONE, END, True, False), id="lost"),
        pytest.param(Closed(sent=True, served=True), Verdict(NONE, END, True, False), id="lost later"),
        pytest.param(
            Closed(sent=True, served=True, given_up=True),
            Verdict(REPEATABLE, END, True, False),
            id="given up by its peer",
        ),
        pytest.param(
            Closed(sent=True, served=True, unread=True),
            Verdict(ALL, END, False, False),
            id="the peer said good-bye before it read the request",
        ),
        # Of one session.
        pytest.param(
            Closed(sent=True, served=True, pinned=True), Verdict(NONE, END, True, True), id="pinned, lost"
        ),
        pytest.param(
            Closed(sent=True, served=True, pinned=True, unread=True),
            Verdict(NONE, END, False, True),
            id="pinned, good-bye: no other connection will do",
        ),
        pytest.param(
            Closed(sent=True, pinned=True, unread=True, opens=True),
            Verdict(NONE, END, False, False),
            id="pinned, good-bye to its first request: nothing was pinned",
        ),
        pytest.param(
            Closed(sent=True, pinned=True, opens=True),
            Verdict(NONE, END, True, True),
            id="pinned, its first lost",
        ),
    ],
)
def test_what_is_retried(closed: Closed, verdict: Verdict) -> None:
    assert what_to_retry(closed) == verdict


ALL_CLOSED = [Closed(*values) for values in itertools.product((False, True), repeat=len(Closed._fields))]


def test_what_may_have_been_acted_on_is_never_tried_again_without_looking_at_it() -> None:
    for closed in ALL_CLOSED:
        verdict = what_to_retry(closed)
        if verdict.sent and not closed.shortened:
            assert verdict.again is not ALL, closed


def test_only_a_connection_of_a_session_is_reported_as_gone() -> None:
    for closed in ALL_CLOSED:
        if what_to_retry(closed).unpinned:
            assert closed.pinned
            assert closed.sent
