"""Who is granted how many connections: pure functions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reqpool_broker.slot_allocation import Claim, most_waiting, shares, slots
from reqpool_broker.worker import Worker

WORKERS = [Worker(b"w%015d" % n, f"w{n}", n, 0.0) for n in range(4)]


@given(st.integers(0, 50), st.lists(st.integers(0, 40), max_size=8))
def test_shares_are_fair(limit: int, wanted: list[int]) -> None:
    given_ = shares(limit, wanted)
    assert len(given_) == len(wanted)
    assert all(0 <= got <= want for got, want in zip(given_, wanted, strict=True))
    assert sum(given_) == min(limit, sum(wanted))
    # Who wants more than it gets has no less than anybody else, but for the one that does not divide.
    short = [got for got, want in zip(given_, wanted, strict=True) if got < want]
    if short:
        assert max(given_) - min(short) <= 1


def test_what_does_not_divide_goes_to_those_in_front() -> None:
    assert shares(7, [10, 10, 10]) == [3, 2, 2]
    assert shares(2, [5, 5, 5]) == [1, 1, 0]
    assert shares(10, [1, 20, 20]) == [1, 5, 4]
    assert shares(0, [3]) == [0]


claims = st.lists(
    st.tuples(
        st.integers(0, 12),  # wanted
        st.lists(st.sampled_from(WORKERS), max_size=4, unique=True),  # owners
        st.dictionaries(st.sampled_from(WORKERS), st.integers(1, 4)),  # reserved
        st.booleans(),  # waits
    ),
    max_size=4,
)


@given(st.integers(1, 16), claims)
def test_what_is_reserved_never_exceeds_the_limit_because_of_a_new_level(
    limit: int, made: list[tuple[int, list[Worker], dict[Worker, int], bool]]
) -> None:
    asked = [
        Claim(f"o{n}", wanted if owners else 0, owners, reserved, waits)
        for n, (wanted, owners, reserved, waits) in enumerate(made)
    ]
    before = {(worker, claim.name): n for claim in asked for worker, n in claim.reserved.items()}
    levels = slots(limit, asked)
    assert all(level >= 0 for level in levels.values())
    after = {who: max(before.get(who, 0), levels.get(who, 0)) for who in {*before, *levels}}
    assert sum(after.values()) <= max(limit, sum(before.values()))
    # Once all have confirmed, the limit holds, even if it did not before (it was lowered).
    confirmed = {who: levels.get(who, before.get(who, 0)) for who in {*before, *levels}}
    assert sum(confirmed.values()) <= limit
    # Nobody goes short while another keeps what is more than its share.
    for _ in range(2):
        held = [
            claim._replace(reserved={w: n for (w, name), n in confirmed.items() if name == claim.name and n})
            for claim in asked
        ]
        confirmed |= slots(limit, held)
    # Those that wait have no more than leaves some to the others.
    most = most_waiting(limit)
    fair_to_wait = iter(shares(most, [claim.wanted for claim in asked if claim.waits]))
    wanted = [next(fair_to_wait) if claim.waits else claim.wanted for claim in asked]
    for claim, share in zip(asked, shares(limit, wanted), strict=True):
        assert sum(n for (_, name), n in confirmed.items() if name == claim.name) >= share


@given(st.integers(0, 16), st.integers(0, 20), st.dictionaries(st.just(WORKERS[0]), st.integers(1, 20)))
def test_who_has_nobody_to_share_with_has_what_it_would_have_beside_one_that_wants_nothing(
    limit: int, wanted: int, held: dict[Worker, int]
) -> None:
    alone = Claim("o", wanted, WORKERS[:1], held)
    idle = Claim("idle", 0, WORKERS[1:2], {})
    beside = slots(limit, [alone, idle])
    assert beside.pop((WORKERS[1], "idle")) == 0
    assert slots(limit, [alone]) == beside


def test_a_surplus_that_nobody_needs_stays() -> None:
    one = WORKERS[0]
    assert slots(8, [Claim("a", 1, [one], {one: 5})]) == {(one, "a"): 5}


def test_only_what_is_needed_is_taken_back() -> None:
    one = WORKERS[0]
    levels = slots(8, [Claim("a", 1, [one], {one: 7}), Claim("b", 3, [one], {})])
    assert levels == {(one, "a"): 5, (one, "b"): 1}


def test_a_lowered_limit_is_enforced_though_nobody_goes_short() -> None:
    one = WORKERS[0]
    assert slots(2, [Claim("a", 0, [one], {one: 8})]) == {(one, "a"): 2}
    assert slots(2, [Claim("a", 9, [one], {one: 8})]) == {(one, "a"): 2}


def test_a_worker_that_is_no_owner_any_more_gives_up_what_it_has() -> None:
    one, two = WORKERS[:2]
    levels = slots(4, [Claim("a", 4, [two], {one: 3})])
    assert levels == {(one, "a"): 0, (two, "a"): 1}


def test_what_nobody_asks_for_stays_until_somebody_goes_short() -> None:
    one = WORKERS[0]
    unasked = Claim("old", 0, (), {one: 3})
    assert slots(4, [Claim("a", 1, [one], {}), unasked]) == {(one, "a"): 1}
    assert slots(4, [Claim("a", 2, [one], {}), unasked]) == {(one, "a"): 1, (one, "old"): 0}


def test_what_waits_leaves_room_to_others_also_while_it_moves() -> None:
    one, two = WORKERS[:2]
    waiting = Claim("w", 300, [one], {}, waits=True)
    assert slots(8, [waiting]) == {(one, "w"): 7}
    moving = waiting._replace(owners=[one, two], reserved={one: 7})
    assert slots(8, [moving, Claim("a", 1, [two], {})]) == {(one, "w"): 4, (two, "w"): 0, (two, "a"): 1}
    assert slots(8, [moving]) == {(one, "w"): 4, (two, "w"): 0}


def test_among_those_that_wait_each_has_its_share_though_there_are_free_ones_for_others() -> None:
    one = WORKERS[0]
    first = Claim("a", 9, [one], {}, waits=True)
    second = Claim("b", 9, [one], {one: 1}, waits=True)
    assert slots(2, [first, second]) == {(one, "a"): 0, (one, "b"): 0}
    assert slots(2, [first, second._replace(reserved={})]) == {(one, "a"): 1, (one, "b"): 0}
