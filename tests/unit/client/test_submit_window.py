"""Room for large payloads comes back as SUBMITs are acknowledged."""

from __future__ import annotations

from reqpool.submit_window import SubmitWindow


def test_room_comes_back_with_each_acknowledged_submit_and_once() -> None:
    window = SubmitWindow()
    window.room_bytes = 10 - 4 - 3
    window.unacked.extend([(1, 4), (2, 0), (3, 3)])
    window.acknowledge(2)
    window.acknowledge(2)
    assert window.room_bytes == 7
    window.acknowledge(9)
    assert (window.room_bytes, list(window.unacked)) == (10, [])


def test_a_new_connection_numbers_from_one_and_awaits_nothing() -> None:
    window = SubmitWindow()
    window.number = 3
    window.unacked.append((3, 5))
    window.restart()
    assert (window.number, list(window.unacked)) == (0, [])
