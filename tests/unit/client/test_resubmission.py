"""What a lost broker has said of pending requests, and for how long that counts."""

from __future__ import annotations

import pytest

from reqpool.resubmission import EXPIRY_SHARE, Resubmission

WATERMARK, NEXT = b"%016d" % 1, b"%016d" % 2
EXPIRY_S = 10.0


def opened() -> Resubmission:
    """Welcomed and opened at 0, everything resubmitted as SUBMIT 1."""
    known = Resubmission()
    known.dialled(0.0)
    known.welcomed(WATERMARK, EXPIRY_S)
    known.opened(0.0)
    known.done(1)
    return known


def test_the_watermark_of_the_lost_connection_counts_on_the_next() -> None:
    known = opened()
    known.dialled(1.0)
    known.welcomed(NEXT, EXPIRY_S)
    assert known.opened(1.0).watermark == WATERMARK
    assert known.under_way


def test_a_raised_watermark_counts_for_what_was_resubmitted_as_well() -> None:
    known = opened()
    known.watermark_rose(NEXT)
    assert known.opened(1.0)[1:3] == (NEXT, True)


@pytest.mark.parametrize(("age_s", "watermark"), [(EXPIRY_S * EXPIRY_SHARE - 1, WATERMARK), (EXPIRY_S, b"")])
def test_a_watermark_lasts_as_long_as_the_broker_remembers_the_last_heartbeat_it_saw(
    age_s: float, watermark: bytes
) -> None:
    known = opened()
    known.beat(1, 5.0)
    known.beat(2, 6.0)
    known.confirmed(1)
    assert known.opened(5.0 + age_s).watermark == watermark


def test_what_goodbye_says_counts_once_and_for_resubmitted_requests_only_if_these_are_settled() -> None:
    known = opened()
    known.said_goodbye(True, known.is_settled(0), ((3, 4),))
    said = known.opened(1.0)
    assert (said.unrun, said.unrun_all, said.doubtful) == (True, False, ((3, 4),))
    assert known.opened(2.0)[3:] == (False, False, ())
    known.done(2)
    known.said_goodbye(True, known.is_settled(2), ())
    assert known.opened(3.0).unrun_all
