"""Whatever a client or a worker says, if it is well-formed: the broker goes on and its books are right.

What it sends is decoded as its receivers do: it is never made to send anything malformed.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reqpool_broker.config import Config, NamedUpstream
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.origin_names import endpoint
from reqpool_contract.policy import Policy
from reqpool_contract.wire import Verb
from support.fake_peers import Desk, FakeClient, FakeWorker

SECRET = endpoint("tcp://app@127.0.0.1:9/0", {"password": "secret"})
PLAIN = endpoint("dns://127.0.0.1:53", {})
CONFIGS = [
    Config(),
    Config(
        [NamedUpstream("a", ("tcp", "deep"), SECRET, SECRET, Policy(max_connections=2, queue_timeout_s=0.3))]
    ),
    Config(
        [
            NamedUpstream(
                "a", ("tcp",), SECRET, SECRET, Policy(max_connections=1, retries=0, read_timeout_s=1.0)
            ),
            NamedUpstream("b", ("dns",), PLAIN, PLAIN, Policy(max_in_flight=3)),
        ]
    ),
]
KINDS = (("dns", False, 4, 1), ("tcp", True, 3, 1), ("deep", True, 4, 8))
ORIGINS = [
    "tcp://127.0.0.1:9", "tcp://app@127.0.0.1:9/0", "tcp://127.0.0.1:9?v", "dns://127.0.0.1:53",
    "dns://127.0.0.1:53?tcp", SECRET.origin, "@a", "@a?v", "@b", "@nobody", "@", "@?", "@#", "?", "#", "/",
    "://", "tcp://", "tcp://#ü", "tcp://h:1#" + "f" * 20, "ü", "@a?" + "v" * 1_020, "x" * 1_024,
]  # fmt: skip

origins = st.sampled_from(ORIGINS)
LARGE = b"x" * wire.KEPT_FROM_BYTES
small = st.integers(0, 6)
odd = st.sampled_from([0, 1, 2, 3, 2**31, 2**63, 2**64 - 1])
seqs = st.lists(st.integers(0, 12), min_size=1, max_size=6)
pins = st.one_of(st.none(), small, odd)
groups = st.builds(
    lambda kind, names, span_ms, flags, priority, pin, trace, numbers, settings, kept: wire.SubmitGroup(
        kind, tuple(names), span_ms, flags, priority, pin, trace, tuple(numbers),
        tuple(b"p%d" % n for n in numbers), settings, kept,
    ),
    st.sampled_from(["dns", "tcp", "deep", "deep", "tcp", "bogus", "", "k" * 100]),
    st.lists(origins, min_size=1, max_size=3),
    st.sampled_from([0, 1, 200, 5_000, wire.MAX_SPAN_MS]),
    st.one_of(st.integers(0, 7), odd),
    st.sampled_from([0, 1, 2, 2, 3, None]),
    pins,
    st.sampled_from([None, None, b"", b"t" * 5_000]),
    seqs,
    st.sampled_from([b"", b"", SECRET.settings, b"junk", LARGE, None]),
    st.sampled_from([None, None, None, 0, 1, 7, 8]),
)  # fmt: skip

sessions = st.integers(0, 2)
client_says = st.one_of(
    st.tuples(st.just(Verb.SUBMIT), st.lists(groups, max_size=4)),
    st.tuples(st.just(Verb.SUBMIT), st.lists(groups, max_size=4)),
    st.tuples(st.just(Verb.CANCEL), seqs),
    st.tuples(st.just(Verb.UNPIN), st.one_of(small, odd)),
    st.tuples(st.just(Verb.KEEP), st.integers(0, 9), st.sampled_from([SECRET.settings, LARGE, LARGE * 2])),
    st.tuples(st.just(Verb.RESEND), odd),
    st.tuples(st.just(Verb.STATUS), st.just({})),
    st.tuples(st.just(Verb.HEARTBEAT), odd, odd, st.one_of(small, odd)),
    st.tuples(st.just(Verb.HELLO), st.sampled_from([None, 77, 5]), st.lists(sessions, max_size=2)),
    st.tuples(st.just(Verb.GOODBYE)),
)
worker_says = st.one_of(
    st.just(("answer",)),
    st.tuples(st.just("answer"), seqs),
    st.tuples(st.just("give back"), seqs),
    st.tuples(st.just("fail"), seqs, st.sampled_from([*map(int, Code), 99]), st.booleans()),
    st.tuples(st.just("confirm"), origins, odd, odd),
    st.tuples(st.just("confirm all")),
    st.tuples(st.just("unpin"), sessions, st.one_of(small, odd)),
    st.tuples(
        st.just("hello"),
        st.sampled_from([None, 77, 5]),
        st.lists(st.tuples(sessions, seqs), max_size=2),
        st.lists(st.tuples(origins, st.integers(1, 3)), max_size=3),
        st.lists(st.tuples(sessions, small, st.sampled_from(["tcp", "dns", "what"]), origins), max_size=3),
    ),
    st.just(("drain",)),
    st.just(("goodbye",)),
    st.just(("die",)),
    st.tuples(st.just("garble"), st.sampled_from([Verb.RESULTS, Verb.RETURN, Verb.RETRY]), sessions, seqs),
    st.tuples(st.just("results"), odd, sessions, seqs),
)
steps = st.one_of(
    st.tuples(st.just("client"), sessions, client_says),
    st.tuples(st.just("client"), sessions, client_says),
    st.tuples(st.just("worker"), st.integers(0, 1), worker_says),
    st.tuples(st.just("time"), st.sampled_from([0.05, 0.4, 1.1, 3.0, 70.0])),
    st.tuples(st.just("config"), st.sampled_from(CONFIGS)),
)


def client_speaks(desk: Desk, clients: list[FakeClient], which: int, verb: Verb, *values: Any) -> None:
    client = clients[which]
    if verb is Verb.SUBMIT:
        client.submitted += 1
        client.send(verb, client.submitted, client.acked, *values)
    elif verb is Verb.HELLO:
        epoch, named = values
        about = {} if epoch is None else {"epoch": epoch}
        client.hello(workers=[b"w%015d" % n for n in named], received=0, **about)
    else:
        client.send(verb, *values)


def worker_speaks(
    desk: Desk, clients: list[FakeClient], workers: list[FakeWorker], which: int, what: str, *values: Any
) -> None:
    worker = workers[which]
    if what == "answer":
        worker.answer(*(values[0] if values else ()))
    elif what == "give back":
        worker.give_back(*values[0])
    elif what == "fail":
        worker.fail(*values[0], code=values[1], sent=values[2])
    elif what == "confirm":
        worker.send(Verb.GRANTED, worker.epoch, worker.seen, *values)
    elif what == "confirm all":
        for name, (_, slots) in list(worker.grants.items()):
            worker.confirm(name, slots)
    elif what == "unpin":
        worker.unpin(clients[values[0]].id, values[1])
    elif what == "hello":
        epoch, held, slots, held_pins = values
        about = {} if epoch is None else {"epoch": epoch}
        worker.grants.clear()
        worker.hello(
            keeps=2,
            held=[(clients[n].id, numbers) for n, numbers in held],
            slots=slots,
            pins=[(clients[n].id, *rest) for n, *rest in held_pins],
            **about,
        )
    elif what == "drain":
        worker.send(Verb.DRAIN, worker.epoch, worker.seen)
    elif what == "goodbye":
        worker.send(Verb.GOODBYE, worker.epoch, worker.seen)
    elif what == "garble":
        verb, session, numbers = values
        bad = [(clients[session].id, tuple(numbers), None, None, None), (b"?", (), 0), None]
        if verb is Verb.RESULTS:
            worker.numbered += 1
            worker.send(
                verb,
                worker.epoch,
                worker.seen,
                worker.numbered,
                bad,
                blobs=(wire.encode_blob([]),) * len(bad),
            )
        else:
            worker.send(verb, worker.epoch, worker.seen, bad)
    elif what == "results":
        number, session, numbers = values
        flat = [item for seq in numbers for item in (seq, 0, b"")]
        group = (clients[session].id, tuple(numbers), number)
        worker.send(Verb.RESULTS, worker.epoch, worker.seen, number, [group], blobs=(wire.encode_blob(flat),))
    else:
        desk.workers.setdefault(worker.route, worker)
        worker.die()
        workers[which] = desk.worker(*KINDS)


@settings(max_examples=150)
@given(st.lists(steps, min_size=5, max_size=60))
def test_the_books_are_right_whatever_is_said(said: list[tuple[Any, ...]]) -> None:
    desk = Desk()
    clients = [desk.client() for _ in range(3)]
    for client in clients:
        client.received.reuses_seqs = True
    workers = [desk.worker(*KINDS) for _ in range(2)]
    for who, *rest in said:
        if who == "client":
            client_speaks(desk, clients, rest[0], *rest[1])
        elif who == "worker":
            worker_speaks(desk, clients, workers, rest[0], *rest[1])
        elif who == "time":
            desk.pass_time(rest[0])
        else:
            desk.broker.reconfigure(rest[0])
        desk.settle()
        desk.check_books()
        assert wire.encode(Verb.STATUS, desk.broker.status.make(desk.now_s))
    # Nothing lasts: the clients go, the workers give up what they had, and all is forgotten.
    for client in clients:
        client.awake = False
    for worker in workers:
        worker.hello()
    desk.pass_time(65.0)
    for worker in workers:
        worker.die()
    desk.pass_time(1.2)
    desk.check_books()
    for session in desk.broker.sessions.values():
        assert not session.open
        assert not session.pins
    for upstream in desk.broker.records.origins.upstreams.values():
        assert upstream.reserved == 0
        assert upstream.in_flight == 0
