"""In which order a host's addresses are tried."""

from __future__ import annotations

import socket

from reqpool_workers.address_order import AddressOrder
from reqpool_workers.protocols import Address

ONE, TWO, THREE = (Address(socket.AF_INET, (f"192.0.2.{at}", 7)) for at in (1, 2, 3))


def test_nothing_known_leaves_the_order() -> None:
    assert AddressOrder().sorted([TWO, ONE, THREE]) == [TWO, ONE, THREE]


def test_the_one_that_took_the_last_connection_comes_first() -> None:
    order = AddressOrder()
    order.note(THREE, good=True)
    assert order.sorted([ONE, TWO, THREE]) == [THREE, ONE, TWO]


def test_the_one_that_broke_off_comes_last_until_it_is_good_again() -> None:
    order = AddressOrder()
    order.note(ONE, good=True)
    order.note(ONE, good=False)
    assert order.sorted([ONE, TWO, THREE]) == [TWO, THREE, ONE]
    order.note(ONE, good=True)
    assert order.sorted([TWO, ONE, THREE]) == [ONE, TWO, THREE]
