"""Who gets which connection, what is opened and what is closed: the pool alone, connections are records."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from reqpool_contract.policy import Policy
from reqpool_contract.wire import Flag, LeaseGroup
from reqpool_workers.connection_pool import Assignment, ConnectionPool, Slots
from reqpool_workers.connection_state import ConnectionState
from reqpool_workers.lease import Pin, Request, WorkerLease
from reqpool_workers.worker_ledger import WorkerLedger

NOW_S = 1_000.0
SESSION = bytes(16)
OPENING = (ConnectionState.CONNECTING, ConnectionState.HANDSHAKE)


class Peer:
    """A connection as the pool sees it."""

    def __init__(
        self,
        name: str,
        state: ConnectionState = ConnectionState.READY,
        *,
        load: int = 0,
        age_s: float = 10.0,
        since_s: float = NOW_S,
        pin: Pin | None = None,
        retiring: bool = False,
        unread: bool = False,
        orphaned: bool = False,
    ) -> None:
        self.name = name
        self.state = state
        self.load = load
        self.born_s = NOW_S - age_s
        self.since_s = since_s
        self.pin = pin
        self.retiring = retiring
        self.unread = unread
        self.orphaned = orphaned

    def __repr__(self) -> str:
        return self.name


def busy(name: str, load: int, **about: float) -> Peer:
    return Peer(name, ConnectionState.BUSY, load=load, **about)  # type: ignore[arg-type]


class Table:
    """A pool, and requests for it.

    Args:
        depth: requests on one connection.
        granted: connections that there may be.
        peers: those that there are; idle ones in the order in which they became so.
    """

    def __init__(self, *peers: Peer, depth: int = 1, granted: int = 4) -> None:
        self.slots = Slots()
        self.slots.granted = granted
        self.pool: ConnectionPool[Peer] = ConnectionPool(depth, self.slots)
        self.ledger = WorkerLedger()
        self._seq = 0
        for peer in peers:
            self.pool.join(peer)
            if peer.pin is not None:
                self.pool.pins[peer.pin] = peer
            elif peer.state is ConnectionState.READY:
                assert self.pool.next_for(peer, NOW_S) == []

    def requests(self, count: int, *, pin: int | None = None, wait_ms: int | None = None) -> list[Request]:
        seqs = tuple(range(self._seq, self._seq + count))
        self._seq += count
        flags = 0 if pin is None else int(Flag.OPENS)
        payloads = (b"ask",) * count
        group = LeaseGroup(SESSION, "x", "x://y", 10_000, flags, 1, pin, None, seqs, payloads)
        lease = self.ledger.admit(group._replace(wait_ms=wait_ms), NOW_S)
        return list(lease.requests)

    def add(self, count: int) -> Assignment[Peer]:
        return self.pool.add(self.requests(count), NOW_S)

    def end(self, *requests: Request) -> None:
        for request in requests:
            del request.lease.session.running[request.seq]


def told(plan: Assignment[Peer]) -> list[str]:
    """Say what a plan does, in its order."""
    return [
        *(f"close {one}: {reason}" for one, reason in plan.closes),
        *(f"{one} {' '.join(str(request.seq) for request in requests)}" for one, requests in plan.sends),
        *(f"adopt {one} {request.seq}" for one, request in plan.adopts),
        *(f"open {request.seq}" for request in plan.opens),
    ]


def by_name(plan: Assignment[Peer]) -> list[tuple[str, int]]:
    """Say which connections have how many requests."""
    return [(one.name, len(requests)) for one, requests in plan.sends]


def seqs(requests: Iterable[Request]) -> list[int]:
    return [request.seq for request in requests]


# --- assign ----------------------------------------------------------------------------------------

ASSIGN: list[tuple[str, Table, int, list[str]]] = [
    ("nothing is there", Table(granted=2), 3, ["open 0", "open 1"]),
    ("nothing may be there", Table(granted=0), 1, []),
    ("the one used last of the idle ones", Table(Peer("a"), Peer("b")), 1, ["b 0"]),
    ("all idle ones, then new ones", Table(Peer("a"), Peer("b"), granted=3), 4, ["b 0", "a 1", "open 2"]),
    ("as many on one as it takes", Table(Peer("a"), depth=2), 2, ["a 0 1"]),
    ("the least loaded first", Table(busy("a", 2), busy("b", 1), depth=3, granted=2), 3, ["b 0 1", "a 2"]),
    ("shared ones before idle ones", Table(Peer("a"), busy("b", 1), depth=2), 2, ["b 0", "a 1"]),
    ("busy ones have no room at depth 1", Table(busy("a", 1), granted=1), 1, []),
    ("an old idle one is closed, and its slot used", Table(Peer("a", age_s=601), granted=1), 1,
     ["close a: old", "open 0"]),
    ("an old busy one takes no more", Table(busy("a", 1, age_s=601), depth=2, granted=1), 1, []),
    ("a retiring one takes no more", Table(busy("a", 1, retiring=True), depth=2, granted=1), 1, []),
    ("one that is opened for nobody", Table(Peer("a", ConnectionState.HANDSHAKE, orphaned=True)), 2,
     ["adopt a 0", "open 1"]),
    ("one that is opened for another is not taken", Table(Peer("a", ConnectionState.HANDSHAKE), granted=1), 1,
     []),
    ("a pinned one is its session's", Table(Peer("a", pin=(SESSION, 1)), granted=1), 1, []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "count", "expected"), [row[1:] for row in ASSIGN], ids=[r[0] for r in ASSIGN]
)
def test_requests_are_assigned(table: Table, count: int, expected: list[str]) -> None:
    assert told(table.add(count)) == expected
    assigned = sum(len(requests) for _, requests in table.pool.assign(NOW_S).sends)
    assert assigned == 0  # nothing is assigned twice


def test_what_finds_no_connection_waits_and_is_counted() -> None:
    table = Table(Peer("a"), granted=1)
    table.add(3)
    assert seqs(table.pool.waiting) == [1, 2]
    assert table.pool.overflowed == 2


def test_what_has_ended_or_is_late_is_not_assigned() -> None:
    table = Table(Peer("a"))
    ended, late, good = table.requests(3)
    late.lease = WorkerLease(late.lease.session, lease_group(late), NOW_S - 20)
    table.end(ended)
    assert told(table.pool.add([ended, late, good], NOW_S - 1)) == [f"a {good.seq}"]


def lease_group(request: Request) -> LeaseGroup:
    return LeaseGroup(SESSION, "x", "x://y", 10_000, 0, 1, None, None, (request.seq,), (b"ask",))


@pytest.mark.parametrize("down", ["server", "descriptors"])
def test_nothing_is_opened_while_the_server_or_descriptors_are_missing(down: str) -> None:
    table = Table(Peer("a"))
    if down == "server":
        assert table.pool.outage.goes_on(NOW_S, 0.5)
    else:
        table.pool.short_until_s = NOW_S + 1
    assert told(table.add(2)) == ["a 0"]
    assert told(table.pool.assign(max(table.pool.outage.retry_s, NOW_S + 1))) == ["open 1"]


def test_the_first_request_of_a_pin_has_a_connection_alone_and_those_behind_it_wait() -> None:
    table = Table(busy("a", 1), depth=4, granted=1)
    (opening,) = table.requests(1, pin=7)
    (other,) = table.requests(1)
    assert told(table.pool.add([opening, other], NOW_S)) == []
    assert seqs(table.pool.waiting) == [0, 1]
    one = table.pool.members[0]
    one.state, one.load = ConnectionState.READY, 0
    assert table.pool.next_for(one, NOW_S) == [opening]


# --- the only choice -------------------------------------------------------------------------------


def drawn(seed: int) -> tuple[Table, int]:
    """A table, and a number of requests that come; the same ones for the same seed."""
    draw = random.Random(seed)
    depth = draw.choice([1, 1, 3])
    peers = []
    for name in "abcd"[: draw.randint(0, 4)]:
        state = draw.choice([ConnectionState.READY] * 4 + [ConnectionState.BUSY] * 2 + [*OPENING])
        load = draw.randint(1, depth) if state is ConnectionState.BUSY else 0
        pin = (SESSION, len(peers)) if draw.random() < 0.1 and state not in OPENING else None
        age_s, retiring = draw.choice([10.0] * 9 + [601.0]), draw.random() < 0.05
        peers.append(Peer(name, state, load=load, age_s=age_s, pin=pin, retiring=retiring))
    table = Table(*peers, depth=depth, granted=draw.randint(0, 5))
    for peer in peers:  # those that are shared have been taken, one after the other
        if peer.state is ConnectionState.BUSY:
            assert table.pool.next_for(peer, NOW_S) == []
    if draw.random() < 0.1:
        table.add(9)
    return table, draw.randint(1, 4)


def test_the_only_choice_is_what_would_be_assigned() -> None:
    found = 0
    for seed in range(3_000):
        table, count = drawn(seed)
        choice = table.pool.only_choice(count, NOW_S)
        if choice is not None:
            again, _ = drawn(seed)
            expected = again.add(count)
            assert by_name(expected) == [(choice.name, count)]
            assert expected.opens == expected.adopts == []
            for one, requests in expected.sends:
                for peer in (choice, one):
                    peer.state, peer.load = ConnectionState.BUSY, peer.load + len(requests)
            assert by_name(table.add(9)) == by_name(again.add(9))  # and leaves the same to be assigned
            found += 1
    assert found > 300


# --- fresh connections -----------------------------------------------------------------------------


def test_what_had_a_stale_connection_has_a_fresh_one_opened_and_no_kept_one() -> None:
    table = Table(Peer("a"), granted=2)
    requests = table.requests(1)
    table.pool.again(requests, NOW_S)
    assert table.pool.retried == set(requests)
    assert told(table.pool.assign(NOW_S)) == ["open 0"]


def test_a_kept_connection_is_closed_for_a_fresh_one_if_there_is_no_slot() -> None:
    table = Table(Peer("a"), Peer("b"), granted=2)
    table.pool.again(table.requests(1), NOW_S)
    assert told(table.pool.assign(NOW_S)) == ["close a: a new one is needed", "open 0"]


def test_as_many_fresh_ones_are_opened_as_the_requests_fill() -> None:
    table = Table(depth=2, granted=4)
    table.pool.again(table.requests(5), NOW_S)
    assert told(table.pool.assign(NOW_S)) == ["open 0", "open 1"]
    assert seqs(table.pool.fresh) == [2, 3, 4]
    fresh = Peer("f", age_s=0)
    assert seqs(table.pool.next_for(fresh, NOW_S)) == [2, 3]


# --- next_for --------------------------------------------------------------------------------------

NEXT: list[tuple[str, Peer, list[int], bool]] = [
    ("an idle one takes what waits, as many as fit", Peer("a"), [0, 1], False),
    ("a shared one has room for one more", busy("a", 1), [0], False),
    ("a full one has none", busy("a", 2), [], False),
    ("a retiring one takes nothing", Peer("a", retiring=True), [], False),
    ("a pinned one takes nothing", Peer("a", pin=(SESSION, 1)), [], False),
]


@pytest.mark.parametrize(("peer", "expected", "idle"), [row[1:] for row in NEXT], ids=[r[0] for r in NEXT])
def test_a_connection_with_room_takes_what_waits(peer: Peer, expected: list[int], idle: bool) -> None:
    table = Table(depth=2, granted=0)
    table.add(2)
    assert seqs(table.pool.next_for(peer, NOW_S)) == expected
    table.slots.granted = 1
    assert (told(table.add(1)) == ["a 2"]) is idle


def test_a_connection_for_which_nothing_waits_is_idle_once() -> None:
    peer = Peer("a")
    table = Table(peer, granted=1)
    assert table.pool.next_for(peer, NOW_S) == []
    assert told(table.add(2)) == ["a 0"]


EACH: list[tuple[str, int, list[Peer], int]] = [
    ("as many as there are", 1, [Peer("a"), Peer("b"), Peer("c")], 3),
    ("the ones used last", 1, [Peer("a"), Peer("b"), Peer("c")], 2),
    ("more than there are", 1, [Peer("a"), Peer("b")], 3),
    ("an old one", 1, [Peer("a", age_s=601), Peer("b")], 2),
    ("an old one that is not needed", 1, [Peer("a", age_s=601), Peer("b")], 1),
    ("just young enough", 1, [Peer("a", age_s=600), Peer("b")], 2),
    ("shared ones", 2, [Peer("a"), Peer("b")], 2),
]


@pytest.mark.parametrize(("depth", "idle", "count"), [row[1:] for row in EACH], ids=[r[0] for r in EACH])
def test_idle_connections_are_taken_for_one_request_each_as_a_plan_would(
    depth: int, idle: list[Peer], count: int
) -> None:
    def parked() -> Table:
        table = Table(depth=depth, granted=len(idle))
        for peer in idle:
            table.pool.join(peer)
            table.pool.park(peer)
        return table

    table, planned = parked(), parked()
    plan = planned.pool.add(planned.requests(count), NOW_S)
    sends = [peer for peer, requests in plan.sends if len(requests) == 1]
    plain = len(sends) == count
    assert table.pool.one_each(count, NOW_S) == (sends if plain else None)
    if plain:  # and are no longer idle
        assert table.pool.one_each(len(idle) - count + 1, NOW_S) is None


def test_nothing_is_taken_from_under_those_that_wait() -> None:
    for waiting in ("waiting", "fresh"):
        table = Table(depth=1, granted=1)
        peer = Peer("a")
        table.pool.join(peer)
        table.pool.park(peer)
        getattr(table.pool, waiting).extend(table.requests(1))
        assert table.pool.one_each(1, NOW_S) is None


def test_a_kept_connection_leaves_what_needs_a_fresh_one() -> None:
    kept, fresh = Peer("a", age_s=1), Peer("b", age_s=0)
    table = Table(depth=1, granted=0)
    table.pool.again(table.requests(1), NOW_S)
    table.pool.waiting.extend(table.requests(1))
    assert seqs(table.pool.next_for(kept, NOW_S)) == [1]
    assert seqs(table.pool.next_for(fresh, NOW_S)) == [0]


# --- surplus ---------------------------------------------------------------------------------------

IDLE_S = NOW_S - 31
SURPLUS: list[tuple[str, int, list[Peer], list[str], list[str]]] = [
    ("nothing", 2, [Peer("a"), busy("b", 1)], [], []),
    ("idle for too long", 2, [Peer("a", since_s=IDLE_S), Peer("b")], ["a: idle"], []),
    ("a busy one is not idle", 1, [busy("a", 1, since_s=IDLE_S)], [], []),
    ("old, and idle", 1, [Peer("a", age_s=601)], ["a: old"], []),
    ("old, and busy: it retires", 1, [busy("a", 1, age_s=601)], [], ["a"]),
    ("over the grant: idle ones go first", 1, [busy("a", 1), Peer("b")], ["b: over the grant"], []),
    ("over the grant: then those opened last", 1, [busy("a", 1, age_s=20), busy("b", 1)], [], ["b"]),
    ("over the grant: one that is opened for nobody", 0,
     [Peer("a", ConnectionState.HANDSHAKE, orphaned=True)], ["a: over the grant"], []),
    ("over the grant: one opened for a request", 0, [Peer("a", ConnectionState.HANDSHAKE)], [], ["a"]),
    ("over the grant: pinned ones last, with what runs", 1, [Peer("a", pin=(SESSION, 1)), Peer("b")],
     ["b: over the grant"], []),
    ("over the grant: a pinned one is not taken away", 0, [Peer("a", pin=(SESSION, 1))], [], ["a"]),
    ("old and pinned", 1, [Peer("a", pin=(SESSION, 1), age_s=601)], [], ["a"]),
    ("pinned and idle for too long", 1, [Peer("a", pin=(SESSION, 1), since_s=NOW_S - 61)],
     ["a: pinned, but idle for 61 s"], []),
    ("pinned and idle for less", 1, [Peer("a", pin=(SESSION, 1), since_s=IDLE_S)], [], []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("granted", "peers", "closed", "retiring"), [row[1:] for row in SURPLUS], ids=[r[0] for r in SURPLUS]
)
def test_surplus(granted: int, peers: list[Peer], closed: list[str], retiring: list[str]) -> None:
    table = Table(*peers, granted=granted)
    assert [f"{one}: {reason}" for one, reason in table.pool.surplus(NOW_S)] == closed
    assert [one.name for one in peers if one.retiring] == retiring


# --- late ------------------------------------------------------------------------------------------

LATE: list[tuple[str, Peer, bool]] = [
    ("busy for longer", busy("a", 1, since_s=NOW_S - 2.1), True),
    ("busy for as long", busy("a", 1, since_s=NOW_S - 2), False),
    ("idle", Peer("a", since_s=NOW_S - 9), False),
    ("its answer waits to be read by us", busy("a", 1, since_s=NOW_S - 9, unread=True), False),
]


@pytest.mark.parametrize(("peer", "late"), [row[1:] for row in LATE], ids=[r[0] for r in LATE])
def test_late(peer: Peer, late: bool) -> None:
    table = Table(peer)
    assert table.pool.late(NOW_S) == []  # there is no such bound by default
    table.pool.policy = Policy(read_timeout_s=2.0)
    assert table.pool.late(NOW_S) == [peer] * late


# --- a server that is away -------------------------------------------------------------------------


def test_what_can_wait_for_the_server_waits_before_the_others_and_what_cannot_ends() -> None:
    table = Table(granted=0)
    assert table.pool.outage.goes_on(NOW_S, 0.5)
    span_ms = round((table.pool.outage.retry_s - NOW_S) * 1000)
    hasty_waiting, waiting = table.requests(1, wait_ms=span_ms - 1), table.requests(1)
    table.pool.add([*hasty_waiting, *waiting], NOW_S)
    hasty, patient = table.requests(1, wait_ms=0), table.requests(1)
    late = table.pool.wait_for_server([*hasty, *patient])
    assert late == [*hasty, *hasty_waiting]
    table.end(*late)
    table.pool.prune()
    assert list(table.pool.waiting) == [*patient, *waiting]


def test_ended_requests_are_pruned() -> None:
    table = Table(granted=0)
    first, second = table.requests(2)
    table.pool.add([first], NOW_S)
    table.pool.again([second], NOW_S)
    assert table.pool.stranded == [first, second]
    table.end(first, second)
    table.pool.prune()
    assert not [*table.pool.waiting, *table.pool.fresh, *table.pool.retried]


def test_what_waits_is_stranded_if_all_that_may_be_open_is_pinned() -> None:
    table = Table(Peer("a", pin=(SESSION, 1)), granted=1)
    table.add(1)
    assert seqs(table.pool.stranded) == [0]
    table.slots.granted = 2
    assert table.pool.stranded == []


def test_a_connection_that_is_removed_frees_its_slot_and_its_pin() -> None:
    idle, pinned = Peer("a"), Peer("b", pin=(SESSION, 1))
    table = Table(idle, pinned, granted=2)
    table.pool.remove(idle)
    table.pool.remove(pinned)
    assert table.slots.taken == 0
    assert not table.pool.pins
    assert told(table.add(1)) == ["open 0"]
