"""The broker's core, driven with a fake clock: no sockets, no processes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from reqpool_broker import session as session_module
from reqpool_broker.client_limits import ClientLimits
from reqpool_broker.config import Config
from reqpool_broker.fair_queue import QUANTUM
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, Reject, Verb
from support.fake_peers import DNS, TCP, TICK_S, UPSTREAM, Desk, FakeClient, FakeWorker

ONCE = Flag(0)


def test_request_goes_to_a_worker_and_its_result_is_published() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, 3)
    assert worker.held() == [1, 2, 3]
    assert worker.leases[0].payloads == (b"p1", b"p2", b"p3")
    worker.answer(2)
    worker.answer()
    assert [client.outcomes[seq] for seq in (1, 2, 3)] == [
        [(0, b"answer 1")], [(0, b"answer 2")], [(0, b"answer 3")],
    ]  # fmt: skip
    assert client.batches == [1, 2]
    desk.check_books()


def test_what_is_submitted_before_any_worker_waits_for_one() -> None:
    desk = Desk()
    client = desk.client()
    client.submit(1)
    worker = desk.worker()
    assert worker.held() == [1]


def test_span_counts_down_while_it_waits() -> None:
    desk = Desk()
    client = desk.client()
    client.submit(1, span_ms=5000)
    desk.pass_time(2.0)
    worker = desk.worker()
    assert 2900 <= worker.leases[0].span_ms <= 3000
    assert worker.leases[0].span_ms + worker.leases[0].queued_ms == 5000


def test_queue_timeout_names_its_phase() -> None:
    desk = Desk()
    client = desk.client()
    client.submit(1, span_ms=1000)
    desk.pass_time(0.9)
    assert 1 not in client.outcomes
    desk.pass_time(0.2)
    assert client.code(1) == Code.TIMEOUT
    assert client.error(1)["phase"] == "queue"
    assert "after 1.0 s in the queue" in client.error(1)["text"]
    assert client.error(1)["sent"] is False
    desk.check_books()


def test_unknown_kind_is_refused_naming_those_served() -> None:
    desk = Desk()
    desk.worker(DNS, TCP)
    client = desk.client()
    client.submit(1, kind="gopher")
    assert client.code(1) == Code.USAGE
    assert "dns, tcp" in client.error(1)["text"]
    desk.check_books()


def test_in_flight_cap_of_an_upstream_holds_over_sessions_and_workers() -> None:
    desk = Desk()
    workers = [desk.worker(("dns", False, 10, 1)) for _ in range(3)]
    clients = [desk.client() for _ in range(3)]
    for client in clients:
        client.submit(*range(1, 21))
    assert sum(len(worker.held()) for worker in workers) == 10
    for _ in range(20):
        for worker in workers:
            worker.answer()
        assert sum(len(worker.held()) for worker in workers) <= 10
        desk.check_books()
    for client in clients:
        assert [client.code(seq) for seq in range(1, 21)] == [0] * 20


def test_sessions_take_turns() -> None:
    desk = Desk()
    worker = desk.worker(("dns", False, QUANTUM, 1))
    greedy, modest = desk.client(), desk.client()
    for first in range(0, 5000, 500):
        greedy.submit(*range(first, first + 500))
    modest.submit(1)
    worker.answer()  # the turn that was under way when the second session came
    worker.answer()  # the first session's next turn
    worker.answer()
    assert modest.code(1) == Code.OK
    assert len(greedy.outcomes) < 3 * QUANTUM
    desk.check_books()


def test_priorities_are_strict() -> None:
    desk = Desk()
    worker = desk.worker(("dns", False, 1, 1))
    client = desk.client()
    client.submit(1)
    client.submit(2, 3, priority=2)
    client.submit(4, priority=1)
    client.submit(5, priority=0)
    order = []
    for _ in range(5):
        order += worker.held()
        worker.answer()
    assert order == [1, 5, 4, 2, 3]


def test_one_silent_upstream_does_not_hold_up_another() -> None:
    desk = Desk()
    worker = desk.worker()
    client = desk.client()
    for first in range(1, 20_001, 500):
        client.submit(*range(first, first + 500), origins=("dns://127.0.0.9:53",), settle=False)
    client.submit(30_000, origins=(UPSTREAM,))
    assert 30_000 in worker.held()
    assert len(worker.held()) == 256 + 1


def test_dead_workers_idempotent_requests_run_elsewhere() -> None:
    desk = Desk()
    first, second = desk.worker(), desk.worker()
    client = desk.client()
    client.submit(1, 2)
    holder, other = (first, second) if first.leases else (second, first)
    holder.die()
    assert other.held() == [1, 2]
    assert other.leases[0].attempt == 2
    other.answer()
    assert [client.code(1), client.code(2)] == [0, 0]
    desk.check_books()


def test_dead_workers_other_requests_end_with_outcome_unknown() -> None:
    desk = Desk()
    holder, client = desk.worker(), desk.client()
    client.submit(1, flags=ONCE)
    other = desk.worker()
    holder.die()
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    assert other.held() == []
    desk.check_books()


def test_request_that_kills_its_workers_ends_with_worker_lost() -> None:
    desk = Desk()
    client = desk.client()
    client.submit(1)
    for _ in range(3):
        desk.worker().die()
    assert client.code(1) == Code.WORKER_LOST
    assert client.error(1)["attempts"] == 3
    desk.check_books()


def leased_anew() -> tuple[Desk, FakeWorker, FakeWorker, FakeClient]:
    """Request 1 went to a worker that then froze, and is with another one now."""
    desk = Desk()
    frozen, client = desk.worker(), desk.client()
    client.submit(1, span_ms=60_000)
    frozen.awake = False
    desk.pass_time(3.0)
    other = desk.worker()
    assert other.held() == [1]
    return desk, frozen, other, client


def test_frozen_worker_loses_its_idempotent_leases_and_the_first_result_wins() -> None:
    desk, frozen, other, client = leased_anew()
    frozen.awake = True
    frozen.reconnect()
    frozen.answer(1)
    assert client.code(1) == Code.OK
    assert other.cancelled == [(client.id, 1)]
    other.answer()
    assert client.code(1) == Code.OK
    desk.check_books()


@pytest.mark.parametrize("ended", [False, True])
def test_worker_that_returns_is_told_to_drop_what_has_ended_or_runs_elsewhere(ended: bool) -> None:
    desk, frozen, other, client = leased_anew()
    if ended:
        other.answer(1)
    frozen.awake = True
    frozen.reconnect()
    desk.settle()
    assert frozen.cancelled == [(client.id, 1)]
    assert other.cancelled == []
    desk.check_books()


def test_frozen_worker_keeps_what_must_not_be_repeated_until_the_deadline() -> None:
    desk = Desk()
    frozen, client = desk.worker(), desk.client()
    client.submit(1, span_ms=10_000, flags=ONCE)
    other = desk.worker()
    frozen.awake = False
    desk.pass_time(9.0)
    assert other.held() == []
    assert client.outcomes == {}
    desk.pass_time(1.3)
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    desk.check_books()


def test_message_of_a_worker_that_slept_is_refused() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1)
    worker.awake = False
    seen = worker.seen
    desk.pass_time(2.4)
    worker.seen = seen
    desk.now_s += 0.3
    worker.answer(1)
    assert worker.rejects == [Reject.UNKNOWN]
    assert client.outcomes == {}


def test_returned_requests_run_elsewhere_whatever_their_kind() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, flags=ONCE)
    other = desk.worker()
    worker.send(Verb.DRAIN, worker.epoch, worker.seen)
    worker.give_back(2)
    assert other.held() == [2]
    assert other.leases[0].attempt == 1
    client.submit(3)
    assert 3 in other.held()
    worker.answer(1)
    worker.send(Verb.GOODBYE, worker.epoch, worker.seen)
    other.answer()
    assert [client.code(seq) for seq in (1, 2, 3)] == [0, 0, 0]
    desk.check_books()


def test_lease_lost_on_the_way_is_given_again_at_hello() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, flags=ONCE)
    worker.leases = []
    worker.hello(epoch=worker.epoch, held=[(client.id, (2,))])
    assert worker.held() == [1]
    assert worker.leases[0].attempt == 1
    desk.check_books()


def test_servers_are_tried_in_turn_and_a_failed_one_last_from_then_on() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    both = ("dns://127.0.0.1:53", "dns://127.0.0.2:53")
    client.submit(1, origins=both, span_ms=4000)
    assert worker.leases[0].origin == both[0]
    assert worker.leases[0].span_ms == 2000
    worker.fail(1, code=Code.TIMEOUT, sent=True)
    assert worker.leases[0].origin == both[1]
    assert worker.leases[0].span_ms == 4000
    client.submit(2, origins=both)
    assert worker.leases[1].origin == both[1]
    worker.fail(1, code=Code.CONNECT_FAILED, sent=False)
    assert client.code(1) == Code.CONNECT_FAILED
    desk.check_books()


@pytest.mark.parametrize(
    ("flags", "sent", "reruns"),
    [(Flag.IDEMPOTENT, True, True), (ONCE, True, False), (ONCE, False, True)],
)
def test_lost_connection_is_retried_only_where_that_is_safe(flags: Flag, sent: bool, reruns: bool) -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, flags=flags)
    worker.fail(1, code=Code.CONNECTION_LOST, sent=sent)
    if reruns:
        assert worker.held() == [1]
        worker.fail(1, code=Code.CONNECTION_LOST, sent=sent)
        worker.fail(1, code=Code.CONNECTION_LOST, sent=sent)
    assert client.code(1) == Code.CONNECTION_LOST
    desk.check_books()


def test_cancel_reaches_what_waits_and_what_runs() -> None:
    desk = Desk()
    worker = desk.worker(("dns", False, 1, 1))
    client = desk.client()
    client.submit(1, 2, 3)
    client.send(Verb.CANCEL, (1, 2))
    desk.settle()
    assert worker.cancelled == [(client.id, 1)]
    assert worker.held() == [1, 3]
    worker.answer()
    assert 3 in client.outcomes
    desk.check_books()


def test_connection_slots_never_exceed_the_limit_while_owners_change() -> None:
    desk = Desk()
    first = desk.worker(TCP)
    client = desk.client()
    origin = "tcp://127.0.0.1:9"
    client.submit(*range(1, 101), origins=(origin,), kind="tcp", flags=ONCE)
    assert first.grants[origin][1] == 8
    assert len(first.held()) == 16
    others = [desk.worker(TCP) for _ in range(3)]
    workers = [first, *others]
    for worker in workers:
        worker.cpu_percent = 60.0  # so that all four stay owners, whichever ranks last
    desk.broker.records.origins.named(origin)[0].owner_count = 4
    desk.pass_time(1.5)
    ledger = desk.broker.records

    def reserved() -> int:
        return sum(
            worker.grants[origin].reserved for worker in ledger.workers.values() if origin in worker.grants
        )

    assert reserved() == 8
    first.send(Verb.GRANTED, first.epoch, first.seen, origin, first.grants[origin][0], 2)
    desk.settle()
    assert reserved() <= 8
    assert sum(worker.grants.get(origin, (0, 0))[1] for worker in workers) == 8
    others[0].awake = False
    desk.pass_time(3.0)
    assert reserved() <= 8


def test_slots_of_a_dead_worker_are_granted_again() -> None:
    desk = Desk()
    first = desk.worker(TCP)
    client = desk.client()
    origin = "tcp://127.0.0.1:9"
    client.submit(*range(1, 101), origins=(origin,), kind="tcp", flags=ONCE)
    second = desk.worker(TCP)
    assert origin not in second.grants
    first.die()
    assert second.grants[origin][1] == 8


def test_unused_grant_is_asked_back() -> None:
    desk = Desk()
    worker, client = desk.worker(TCP), desk.client()
    origin = "tcp://127.0.0.1:9"
    client.submit(1, origins=(origin,), kind="tcp")
    worker.answer()
    assert worker.grants[origin][1] == 1
    desk.pass_time(13.0)
    assert worker.grants[origin][1] == 0


def test_busy_owners_get_help_and_lose_it_when_idle() -> None:
    desk = Desk()
    workers = [desk.worker() for _ in range(3)]
    client = desk.client()
    for worker in workers:
        worker.cpu_percent = 95.0
    client.submit(1, span_ms=100_000)
    desk.pass_time(1.5)
    origin = desk.broker.records.origins.named(UPSTREAM)[0]
    assert origin.owner_count > 1
    for worker in workers:
        worker.cpu_percent = 5.0
    desk.pass_time(3.5)
    assert origin.owner_count == 1


def test_client_that_does_not_acknowledge_throttles_only_itself() -> None:
    desk = Desk()
    worker = desk.worker()
    slow, quick = desk.client(), desk.client()
    for seq in range(1, 400):
        slow.submit(seq)
        worker.answer()
    assert len(slow.batches) == session_module.ROOM_BATCHES
    quick.submit(1)
    worker.answer()
    assert quick.code(1) == Code.OK
    slow.acknowledge()
    desk.settle()
    worker.answer()
    assert len(slow.outcomes) == 399
    desk.check_books()


def test_missed_batches_are_published_again() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    for seq in (1, 2, 3):
        client.submit(seq)
        worker.answer()
    client.send(Verb.RESEND, 1)
    desk.settle()
    assert client.batches == [1, 2, 3, 2, 3]
    client.acknowledge()
    client.send(Verb.RESEND, 0)
    desk.settle()
    assert client.batches == [1, 2, 3, 2, 3]


def test_worker_hears_what_clients_have_acknowledged() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2)
    worker.answer(1)
    worker.answer(2)
    desk.pass_time(0.6)
    assert worker.undelivered == [1, 2]
    client.acknowledge()
    desk.pass_time(0.6)
    assert worker.undelivered == []


def test_whose_results_a_draining_worker_keeps_is_asked_at_once_to_acknowledge_them() -> None:
    desk = Desk()
    worker = desk.worker()
    asked, idle = desk.client(), desk.client()
    asked.submit(1, 2, flags=ONCE)
    worker.answer(1)
    desk.settle()
    before = asked.heard_beats, idle.heard_beats
    worker.send(Verb.DRAIN, worker.epoch, worker.seen)
    desk.settle()
    assert (asked.heard_beats, idle.heard_beats) == (before[0] + 1, before[1])
    worker.answer(2)  # and of what ends while it drains
    desk.settle()
    assert (asked.heard_beats, idle.heard_beats) == (before[0] + 2, before[1])


def test_a_draining_worker_is_told_within_a_tick_what_it_waits_for() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, flags=ONCE)
    worker.answer(1)
    desk.pass_time(0.6)
    assert worker.undelivered == [1]
    worker.send(Verb.DRAIN, worker.epoch, worker.seen)
    worker.heartbeat()
    desk.settle()
    assert worker.broker_seen == worker.beats  # no lease is on its way any more
    client.acknowledge()
    desk.pass_time(2 * TICK_S)
    assert worker.undelivered == []


def test_gap_in_submissions_is_refused() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submitted += 1
    client.submit(1)
    assert client.replies[-1][0] is Verb.REJECT
    assert client.replies[-1][1][0] == Reject.GAP
    assert worker.held() == []


def test_resumed_session_submits_again_and_nothing_runs_twice() -> None:
    desk = Desk()
    worker = desk.worker(("dns", False, 2, 1))
    client = desk.client()
    client.submit(1, 2, 3, flags=ONCE)
    desk.clients.pop(client.route)
    worker.answer(1)
    assert client.outcomes == {}
    client.hello(epoch=77, received=0)
    assert client.welcome["resumed"] is True
    assert client.code(1) == Code.OK
    client.submit(2, 3, 4, flags=ONCE | Flag.RESUBMITTED)
    worker.answer()
    worker.answer()
    assert [client.code(seq) for seq in (1, 2, 3, 4)] == [0, 0, 0, 0]
    desk.check_books()


def test_new_epoch_waits_for_the_old_workers_and_runs_nothing_twice() -> None:
    old = Desk(predecessors=frozenset())
    worker, client = old.worker(), old.client()
    client.submit(1, 2, flags=ONCE)
    desk = Desk(epoch=78, predecessors=frozenset({worker.id}))
    worker.desk = client.desk = desk
    client.hello(epoch=77)
    client.submit(1, 2, 3, flags=ONCE | Flag.RESUBMITTED)
    other = desk.worker()
    assert other.held() == []
    worker.reconnect()
    assert sorted(worker.held()) == [1, 2] or sorted(worker.held()) == [1, 2, 3]
    assert sorted(other.held() + worker.held()) == [1, 2, 3]
    worker.answer()
    other.answer()
    assert [client.code(seq) for seq in (1, 2, 3)] == [0, 0, 0]
    desk.check_books()


def test_new_epoch_whose_old_worker_never_reports_says_so() -> None:
    desk = Desk()
    desk.worker()
    client = desk.client(epoch=5)
    client.submit(1, flags=ONCE | Flag.RESUBMITTED)
    client.submit(2, flags=Flag.IDEMPOTENT | Flag.RESUBMITTED)
    client.submit(3)
    desk.pass_time(4.0)
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    held = [seq for worker in desk.workers.values() for seq in worker.held()]
    assert sorted(held) == [2, 3]
    desk.check_books()


def test_silent_session_expires_and_is_told_what_never_ran() -> None:
    desk = Desk()
    worker = desk.worker(("dns", False, 1, 1))
    client = desk.client()
    client.submit(1, 2, 3, 5, span_ms=600_000, flags=ONCE)
    client.awake = False
    desk.pass_time(63.0)
    assert worker.held() == [1]
    worker.answer()
    assert desk.broker.sessions == {}
    client.watermarks.clear()  # it knows that it was silent for too long
    client.hello(epoch=77)
    assert client.welcome["resumed"] is False
    assert client.welcome["never_ran"] == ((2, 3), (5, 5))
    client.submit(1, 2, flags=ONCE | Flag.RESUBMITTED)
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    assert worker.held() == [2]
    desk.check_books()


def test_goodbye_drops_what_waits_and_lets_the_rest_finish_unheard() -> None:
    desk = Desk()
    worker = desk.worker(("dns", False, 1, 1))
    client = desk.client()
    client.submit(1, 2)
    client.send(Verb.GOODBYE)
    desk.settle()
    worker.answer()
    assert worker.held() == []
    assert client.outcomes == {}
    assert desk.broker.sessions == {}
    assert desk.broker.records.origins.named(UPSTREAM)[0].in_flight == 0


def test_over_max_pending_single_requests_are_refused_with_a_wait() -> None:
    desk = Desk(config=Config(clients=ClientLimits(max_pending=10)))
    client = desk.client()
    client.submit(*range(8))
    client.submit(8, 9, 10)
    assert client.code(9) == Code.OVERLOADED
    assert client.error(9)["retry_after_ms"] > 0
    assert 1 not in client.outcomes
    desk.check_books()


def test_version_mismatch_names_both_ranges() -> None:
    desk = Desk()
    client = desk.client()
    client.send(Verb.HELLO, 7, 9, {"session": b"v" * 16})
    desk.settle()
    verb, values = client.replies[-1]
    assert (verb, values[0]) == (Verb.REJECT, Reject.VERSION)
    assert values[2] == {"lowest": wire.LOWEST_VERSION, "highest": wire.VERSION}


def test_only_exact_session_ids_may_be_subscribed() -> None:
    desk = Desk()
    client = desk.client()
    assert desk.broker.lifecycle.subscription(client.id, 0)
    for topic in (b"", client.id[:8], client.id + b"x", b"z" * 16):
        assert not desk.broker.lifecycle.subscription(topic, 0)
    assert desk.broker.malformed["results"] == 3, "the last may be a client's that comes back"


def test_garbage_is_counted_and_changes_nothing() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1)
    noise = random.Random(4)
    for _ in range(300):
        frames = [noise.randbytes(noise.randrange(40)) for _ in range(noise.randrange(3))]
        desk.broker.client_messages.message(b"?", frames, desk.now_s)
        desk.broker.client_messages.message(client.route, frames, desk.now_s)
        desk.broker.worker_messages.message(worker.route, frames, desk.now_s)
    assert desk.broker.malformed["intake"] == 600
    assert desk.broker.malformed["workers"] == 300
    desk.settle()
    worker.answer()
    assert client.code(1) == Code.OK
    desk.check_books()


@pytest.mark.parametrize("seed", range(40))
def test_every_request_ends_exactly_once_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    desk = Desk()
    origins = [(f"dns://127.0.0.{n}:53",) for n in range(1, 4)] + [("dns://10.0.0.1:53", "dns://10.0.0.2:53")]
    workers = [desk.worker(("dns", False, 20, 1)) for _ in range(3)]
    clients = [desk.client() for _ in range(3)]
    next_seq = dict.fromkeys(clients, 1)
    cancelled: set[tuple[bytes, int]] = set()
    once: set[tuple[bytes, int]] = set()
    for _ in range(250):
        act = chance.random()
        client, worker = chance.choice(clients), chance.choice(workers)
        held = worker.held()
        some = chance.sample(held, min(len(held), chance.randrange(1, 12)))
        if act < 0.35:
            count = chance.randrange(1, 40)
            first = next_seq[client]
            next_seq[client] += count
            flags = chance.choice([ONCE, Flag.IDEMPOTENT])
            if flags == ONCE:
                once.update((client.id, seq) for seq in range(first, first + count))
            client.submit(
                *range(first, first + count),
                origins=chance.choice(origins),
                flags=flags,
                span_ms=chance.choice([200, 2000, 20_000]),
                priority=chance.randrange(3),
            )
        elif act < 0.60:
            worker.answer(*some)
        elif act < 0.66:
            worker.fail(*some, code=chance.choice([20, 31, 32]), sent=chance.random() < 0.5)
        elif act < 0.70:
            worker.give_back(*some)
        elif act < 0.74 and next_seq[client] > 1:
            seq = chance.randrange(1, next_seq[client])
            client.send(Verb.CANCEL, (seq,))
            cancelled.add((client.id, seq))
            desk.settle()
        elif act < 0.76:
            worker.die()
            workers[workers.index(worker)] = desk.worker(("dns", False, 20, 1))
        elif act < 0.78:
            worker.awake = not worker.awake
        elif act < 0.80:
            worker.awake = True
            worker.reconnect()
        elif act < 0.84:
            client.acknowledge()
        else:
            desk.pass_time(chance.choice([0.05, 0.3, 1.0, 3.0]))
        desk.check_books()
    desk.pass_time(25.0)
    desk.check_books()
    ran = Counter(desk.executions)
    assert all(ran[request] <= 1 for request in once)
    for client in clients:
        for seq in range(1, next_seq[client]):
            assert client.outcomes.get(seq) or (client.id, seq) in cancelled, seq


def come_back_without_leases(worker: FakeWorker) -> None:
    worker.leases.clear()
    worker.hello(epoch=worker.epoch)


@pytest.mark.parametrize(
    "lose",
    [
        FakeWorker.die,
        come_back_without_leases,
        lambda worker: worker.give_back(1, 2, 3, 4),
        lambda worker: worker.fail(1, 2, 3, 4, code=Code.CONNECTION_LOST, sent=True),
    ],
    ids=["it dies", "it comes back without them", "it hands them back", "they fail there"],
)
def test_what_a_worker_loses_runs_again_in_the_order_in_which_it_was_asked_for(
    lose: Callable[[FakeWorker], None],
) -> None:
    kind = ("dns", False, 4, 1)
    desk = Desk()
    client, first = desk.client(), desk.worker(kind)
    for seqs in ((1,), (2, 3), (4,), (5,)):
        client.submit(*seqs)
    assert first.held() == [1, 2, 3, 4]
    lose(first)
    if lose is FakeWorker.die:
        first.leases.clear()
    second = desk.worker(kind)
    assert [*first.held(), *second.held()] == [1, 2, 3, 4]
    desk.check_books()
