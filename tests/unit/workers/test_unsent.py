"""What a connection of a worker has not sent yet."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from reqpool_workers.unsent import PIECES, Unsent


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def test_no_more_is_sent_in_a_turn_than_may_be(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    unsent = Unsent()
    for size in (3_000, 6_000, 1_000):
        unsent.add(bytes(size))
    for left in (6_000, 2_000, 0):
        unsent.send(ours, 4_000)
        assert len(theirs.recv(20_000)) == (4_000 if left else 2_000)
        assert bool(unsent.pieces) == bool(left)


def test_all_arrives_in_order_however_little_room_there_is(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    unsent = Unsent()
    sizes = [1, 3, 1_000_000, *[7] * (3 * PIECES)]
    pieces = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    for piece in pieces:
        unsent.add(piece)
    read = bytearray()
    full = 0
    while unsent.pieces:
        try:
            unsent.send(ours, 1 << 30)
        except BlockingIOError:
            full += 1
            read += theirs.recv(100_000)
    while len(read) < sum(map(len, pieces)):
        read += theirs.recv(100_000)
    assert read == b"".join(pieces)
    assert full


def test_what_is_given_up_is_not_sent(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    unsent = Unsent()
    unsent.add(b"one")
    unsent.clear()
    assert not unsent.pieces
    unsent.send(ours, 10)
    with pytest.raises(BlockingIOError):
        theirs.recv(10)
