"""What a run can find."""

from __future__ import annotations

from enum import Enum


class Wrong(Enum):
    """What can be wrong."""

    TWICE = "executed twice"
    LIE = "an error says that nothing was sent, and something was"
    UNKNOWN = "OutcomeUnknown without a cause"
    LATE = "not ended in time"
    ENDS = "ended more than once, or with what nobody answered"
    REFUSED = "a request that is used rightly is called a wrong use"
    CONNECTIONS = "more connections than allowed"
    PLANNED = "an error, and nothing unplanned had happened"
    KEPT = "something is kept for ever"
    BODY = "a body that is not what was asked for"
    BOOKS = "the broker's books do not balance"
    RAISED = "an exception"
    CIRCLES = "it goes round in circles"


class Broken(Exception):
    """Something that is promised did not hold.

    Attributes:
        wrong: which sort of promise.
    """

    def __init__(self, wrong: Wrong, text: str) -> None:
        super().__init__(text)
        self.wrong = wrong
