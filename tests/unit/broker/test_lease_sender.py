"""What is leased in a turn leaves at its end."""

from __future__ import annotations

import pytest

from reqpool_broker.lease_sender import LeaseSender
from reqpool_broker.outgoing import Outgoing
from reqpool_broker.worker import Worker
from reqpool_contract import wire
from reqpool_contract.wire import LeaseGroup, Verb

SESSION = b"s" * 16
LARGE = bytes(wire.KEPT_FROM_BYTES)


class Sending:
    """A lease sender with one worker, which caches settings, and what it has sent."""

    def __init__(self) -> None:
        self.outbox = Outgoing()
        self.worker = Worker(b"w" * 16, "w", 1, 0.0)
        self.worker.connect(b"route", "w", 1, {}, 4, 0.0, epoch=5, liveness_s=2.5, strange=False)
        self.sender = LeaseSender(5, self.outbox)
        self.sender.begin(self.worker, apart=True)

    def sent(self) -> list[tuple[Verb, list[object]]]:
        messages = [wire.decode(frames[0], wire.BROKER_TO_WORKER) for _, *frames in self.outbox.workers]
        self.outbox.workers.clear()
        return messages


def group(*seqs: int, settings: bytes = b"", payload: bytes = b"p") -> LeaseGroup:
    payloads = (payload,) * len(seqs)
    return LeaseGroup(SESSION, "tcp", "tcp://h:1", 1_000, 0, 1, None, None, seqs, payloads, settings)


@pytest.fixture
def sending() -> Sending:
    return Sending()


def test_nothing_leaves_before_the_end_of_the_turn(sending: Sending) -> None:
    sending.sender.add(sending.worker, group(1))
    assert sending.sent() == []
    assert sending.sender.is_wanted
    sending.sender.send(0.0)
    ((verb, (_, _, groups, _)),) = sending.sent()
    assert (verb, groups) == (Verb.LEASE, [group(1)])
    assert not sending.sender.is_wanted
    sending.sender.send(0.0)
    assert sending.sent() == []


def test_groups_of_one_turn_share_a_message(sending: Sending) -> None:
    sending.sender.add(sending.worker, group(1))
    sending.sender.add(sending.worker, group(2))
    sending.sender.send(0.0)
    ((_, (_, _, groups, _)),) = sending.sent()
    assert groups == [group(1), group(2)]


def test_settings_that_are_cached_come_before_the_lease_that_names_them(sending: Sending) -> None:
    for seq in (1, 2):
        sending.sender.add(sending.worker, group(seq, settings=LARGE))
        sending.sender.send(0.0)
    messages = sending.sent()
    assert [verb for verb, _ in messages] == [Verb.KEEP, Verb.LEASE, Verb.LEASE]


def test_a_cancellation_follows_the_leases_of_its_turn(sending: Sending) -> None:
    sending.sender.cancel(sending.worker, SESSION, 7)
    sending.sender.add(sending.worker, group(1))
    sending.sender.send(0.0)
    assert [verb for verb, _ in sending.sent()] == [Verb.LEASE, Verb.CANCEL]


def test_nothing_is_sent_to_a_worker_that_is_not_connected(sending: Sending) -> None:
    sending.sender.add(sending.worker, group(1))
    sending.sender.cancel(sending.worker, SESSION, 7)
    sending.worker.route = None
    sending.sender.send(0.0)
    assert sending.outbox.workers == []
