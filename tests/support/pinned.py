"""Held connections behind a broker core driven by hand: requests of a pin, and what becomes of them."""

from __future__ import annotations

from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag

from .fake_peers import Desk, FakeClient, FakeWorker

ONCE = Flag(0)
OPENS = Flag.OPENS
AGAIN = Flag.RESUBMITTED
ORIGIN = "tcp://127.0.0.1:9"
LONG_MS = 60_000


def held_kind(limit: int = 8, depth: int = 1) -> tuple[str, bool, int, int]:
    return ("tcp", True, limit, depth)


def ask(
    client: FakeClient, *seqs: int, pin: int | None = None, opens: bool = False, **options: object
) -> None:
    flags = options.pop("flags", OPENS if opens else ONCE)
    span_ms = options.pop("span_ms", LONG_MS)
    origins = options.pop("origins", (ORIGIN,))
    kind = options.pop("kind", "tcp")
    client.submit(*seqs, kind=kind, origins=origins, flags=flags, span_ms=span_ms, pin=pin, **options)


def opened(limit: int = 8, workers: int = 1) -> tuple[Desk, FakeWorker, FakeClient]:
    """A pin, number 1, whose first request has been answered; the worker is the one that holds it."""
    desk = Desk(predecessors=frozenset())
    all_workers = [desk.worker(held_kind(limit)) for _ in range(workers)]
    client = desk.client()
    ask(client, 1, pin=1, opens=True)
    (holder,) = (worker for worker in all_workers if worker.leases)
    holder.answer(1)
    assert client.code(1) == Code.OK
    return desk, holder, client


def gone(client: FakeClient, seq: int) -> bool:
    """Has a request ended as one whose held connection is no more?"""
    assert client.code(seq) == Code.CONNECTION_LOST
    about = client.error(seq)
    assert about["phase"] == "queue"
    assert about["sent"] is False
    return "pinned to this session is lost" in about["text"]
