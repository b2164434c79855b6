"""One server behind a broker core driven by hand: its policy, requests to it, and who holds connections.

A :class:`Holder` opens connections as it was granted them, so that they can be counted.
"""

from __future__ import annotations

from typing import Any

from reqpool_broker.config import Config, NamedUpstream
from reqpool_contract.origin_names import endpoint
from reqpool_contract.policy import Policy
from reqpool_contract.wire import Flag, Verb

from .fake_peers import Desk, FakeClient, FakeWorker

ONCE = Flag(0)
SERVER = "tcp://127.0.0.1:9"
LONG_MS = 600_000
KIND = ("tcp", True, 8, 1)
WAITING_KIND = ("redis-exclusive", True, 8, 1, True, "alone")


def with_policy(**policy: Any) -> Config:
    """The server's policy, under a name."""
    found = endpoint(SERVER, {})
    return Config([NamedUpstream("shop", ("tcp", "deep"), found, found, Policy(**policy))])


def ask(client: FakeClient, *seqs: int, place: str = "", **options: Any) -> None:
    client.submit(
        *seqs,
        **{"kind": "tcp", "origins": (SERVER + place,), "flags": ONCE, "span_ms": LONG_MS, **options},
    )


def reserved(desk: Desk) -> int:
    return desk.broker.records.origins.upstreams[SERVER].reserved


def granted(worker: FakeWorker, place: str = "") -> int:
    return worker.grants.get(SERVER + place, (0, 0))[1]


class Holder(FakeWorker):
    """A worker that opens what it was granted, and reads what it is told when the test says."""

    def __init__(self, desk: Desk, id_: bytes, kinds: tuple[tuple[Any, ...], ...]) -> None:
        super().__init__(desk, id_, kinds)
        self.inbox: list[tuple[Verb, list[Any]]] = []
        self.open: dict[str, int] = {}
        self.slots: dict[str, int] = {}
        self.unconfirmed: dict[str, int] = {}

    def take(self, verb: Verb, values: list[Any]) -> None:
        self.inbox.append((verb, values))

    def read(self, most: int = 1_000) -> None:
        """Read messages; what one is told of a grant is kept from then on."""
        for _ in range(min(most, len(self.inbox))):
            verb, values = self.inbox.pop(0)
            if verb is Verb.REJECT:
                self.come_back()
                return
            super().take(verb, values)
            if verb is Verb.GRANT:
                self.slots[values[2]] = values[4]
                self.unconfirmed[values[2]] = values[3]

    def work(self) -> None:
        """Open what is needed and granted, answer what has a connection, hand back what can have none."""
        for name, slots in self.slots.items():
            leased = [seq for lease in self.leases if lease.origin == name for seq in lease.seqs]
            held = self.open.get(name, 0)
            self.open[name] = max(held, min(slots, len(leased)))
            running = leased[: self.open[name]]
            if running:
                self.answer_all(name, len(running))
            if not slots and not self.open[name]:
                left = [seq for lease in self.leases if lease.origin == name for seq in lease.seqs]
                if left:
                    self.give_back(*left)

    def answer_all(self, name: str, count: int) -> None:
        for lease in list(self.leases):
            if lease.origin == name and count > 0:
                count -= len(lease.seqs[:count])
                self.answer(*lease.seqs, session=lease.session)

    def obey(self) -> None:
        """Close what is over a grant, and say so."""
        for name, number in list(self.unconfirmed.items()):
            slots = self.slots[name]
            self.open[name] = min(self.open.get(name, 0), slots)
            del self.unconfirmed[name]
            self.send(Verb.GRANTED, self.epoch, self.seen, name, number, self.open[name])
            self.desk.settle()

    def come_back(self) -> None:
        """Say HELLO over a new socket: from then on no more than is open."""
        self.inbox.clear()
        self.unconfirmed.clear()
        self.slots = {name: count for name, count in self.open.items() if count}
        # What waits for a connection that it may not have any more never arrived.
        self.leases = [lease for lease in self.leases if lease.origin in self.slots]
        finished, self.unreceived = list(self.unreceived.values()), {}
        held = [(lease.session, lease.seqs) for lease in self.leases]
        held += [group[:2] for groups, _ in finished for group in groups]
        self.hello(epoch=self.epoch, held=held, slots=list(self.slots.items()))
        self.read()
        for groups, blobs in finished:
            self._report(groups, blobs)
