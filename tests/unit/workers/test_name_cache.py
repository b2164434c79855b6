"""What is remembered of look-ups, and for how long."""

from __future__ import annotations

from reqpool_workers.look_up import Found, LookupFailure
from reqpool_workers.name_cache import MAX_NAMES, NameCache

HERE = Found(("10.0.0.1",), 60.0)
GONE = LookupFailure("no such host: db", 5.0, known=True)
DOWN = LookupFailure("no name server answers", 1.0, known=False)


def test_an_answer_is_good_for_its_time() -> None:
    known = NameCache()
    assert known.put("db", HERE, 0.0) is HERE
    assert known.get("db", 59.9) is HERE
    assert known.get("db", 60.0) is None
    assert known.get("other", 0.0) is None


def test_stale_addresses_are_used_when_no_server_answers() -> None:
    known = NameCache()
    known.put("db", HERE, 0.0)
    assert known.put("db", DOWN, 100.0) is HERE
    assert known.get("db", 100.9) is HERE  # and the servers are left alone for a second
    assert known.get("db", 101.0) is None
    assert known.put("db", DOWN, 359.0) is HERE
    assert known.put("db", DOWN, 360.0) is DOWN  # 5 minutes after their time
    assert known.get("db", 360.5) is DOWN


def test_stale_addresses_are_not_used_when_the_host_is_gone() -> None:
    known = NameCache()
    known.put("db", HERE, 0.0)
    assert known.put("db", GONE, 61.0) is GONE
    assert known.put("db", DOWN, 67.0) is DOWN


def test_memory_is_bounded() -> None:
    known = NameCache()
    for number in range(MAX_NAMES):
        known.put(f"h{number}", HERE, 0.0)
    known.get("h0", 1.0)
    known.put("one more", HERE, 1.0)
    assert len(known) == MAX_NAMES
    assert known.get("h0", 1.0) is HERE
    assert known.get("h1", 1.0) is None
