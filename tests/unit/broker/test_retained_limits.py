"""Results that a client leaves unread: fake clock, no sockets."""

from __future__ import annotations

import pytest

from reqpool_broker import retained_limits
from reqpool_broker.client_limits import ClientLimits
from reqpool_broker.config import Config
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag
from support.fake_peers import Desk, FakeClient, FakeWorker

MIB = 1 << 20
ONCE = Flag(0)
LIMIT_BYTES = 32 * MIB
ANSWER_BYTES = 4 * MIB
COUNT = 20


def asked(clients: int = 1, flags: Flag = Flag.IDEMPOTENT) -> tuple[Desk, FakeWorker, list[FakeClient]]:
    """Clients with a worker that runs ``COUNT`` requests of each."""
    desk = Desk(config=Config(clients=ClientLimits(max_queued_bytes=LIMIT_BYTES)))
    worker = desk.worker()
    asking = [desk.client() for _ in range(clients)]
    for client in asking:
        client.submit(*range(1, COUNT + 1), flags=flags)
    return desk, worker, asking


def answer_all(worker: FakeWorker, client: FakeClient, size_bytes: int = ANSWER_BYTES) -> None:
    for seq in range(1, COUNT + 1):
        worker.answer(seq, session=client.id, size_bytes=size_bytes)


def kept_bytes(desk: Desk, client: FakeClient) -> int:
    return desk.broker.sessions[client.id].unacked_bytes


@pytest.mark.parametrize(
    ("flags", "code"), [(Flag.IDEMPOTENT, Code.OVERLOADED), (ONCE, Code.OUTCOME_UNKNOWN)]
)
def test_a_client_that_is_frozen_makes_the_broker_keep_no_more_than_its_limit(
    flags: Flag, code: Code
) -> None:
    desk, worker, [client] = asked(flags=flags)
    client.awake = False
    desk.pass_time(3.0)
    answer_all(worker, client)
    assert LIMIT_BYTES < kept_bytes(desk, client) < LIMIT_BYTES + 2 * ANSWER_BYTES
    client.awake = True
    desk.settle()
    codes = [client.code(seq) for seq in range(1, COUNT + 1)]
    kept = LIMIT_BYTES // ANSWER_BYTES
    assert codes == [Code.OK] * kept + [code] * (COUNT - kept)
    error = client.error(COUNT)
    assert error["sent"] is True
    assert "of unread answers" in error["text"]


def test_a_client_that_reads_slowly_gets_all_of_its_answers() -> None:
    desk, worker, [client] = asked()
    answer_all(worker, client)
    assert [client.code(seq) for seq in range(1, COUNT + 1)] == [Code.OK] * COUNT
    assert kept_bytes(desk, client) > COUNT * ANSWER_BYTES


def test_one_that_hears_and_never_acknowledges_is_bounded_by_what_all_may_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retained_limits, "MAX_ALL_UNREAD_BYTES", 2 * LIMIT_BYTES)
    desk, worker, [deaf, other] = asked(2)
    answer_all(worker, deaf)
    assert kept_bytes(desk, deaf) < 2 * LIMIT_BYTES + 2 * ANSWER_BYTES
    answer_all(worker, other, MIB)
    assert [other.code(seq) for seq in range(1, COUNT + 1)] == [Code.OK] * COUNT, "it is below its own limit"


def test_small_results_are_kept_whatever_is_unread() -> None:
    desk, worker, [client] = asked()
    client.awake = False
    desk.pass_time(3.0)
    for seq in range(1, COUNT):
        worker.answer(seq, size_bytes=ANSWER_BYTES)
    worker.answer(COUNT)
    client.awake = True
    desk.settle()
    assert client.code(COUNT) == Code.OK
