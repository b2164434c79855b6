"""An answer that another origin may better: the next is asked, and the answer kept meanwhile."""

from __future__ import annotations

from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag
from support.fake_peers import Desk

ONE, TWO, THREE = "dns://192.0.2.1:53", "dns://192.0.2.2:53", "dns://192.0.2.3:53"


def test_a_worker_is_told_whether_other_origins_are_left() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, origins=(ONE, TWO))
    assert worker.leases[-1].flags == Flag.IDEMPOTENT | Flag.OTHERS
    worker.fail(1, code=Code.OK, sent=True)
    assert (worker.leases[-1].origin, worker.leases[-1].flags) == (TWO, Flag.IDEMPOTENT | Flag.SENT)
    client.submit(2, origins=(ONE,))
    assert worker.leases[-1].flags == Flag.IDEMPOTENT


def test_a_better_answer_is_the_result() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, origins=(ONE, TWO))
    worker.fail(1, code=Code.OK, sent=True, details=b"SERVFAIL")
    assert 1 not in client.outcomes
    worker.answer(1)
    assert client.outcomes[1] == [(Code.OK, b"answer 1")]
    assert desk.broker.records.failed == {}
    desk.check_books()


def test_the_last_answer_is_the_result_where_there_is_no_better_one() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, origins=(ONE, TWO))
    worker.fail(1, code=Code.OK, sent=True, details=b"SERVFAIL")
    worker.fail(1, code=Code.OK, sent=True, details=b"REFUSED")
    assert client.outcomes[1] == [(Code.OK, b"REFUSED")]
    desk.check_books()


def test_an_answer_outlasts_the_errors_of_other_origins() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, origins=(ONE, TWO, THREE))
    worker.fail(1, code=Code.CONNECT_FAILED, sent=True)
    worker.fail(1, code=Code.OK, sent=True, details=b"SERVFAIL")
    worker.fail(1, code=Code.TIMEOUT, sent=True)
    assert client.outcomes[1] == [(Code.OK, b"SERVFAIL")]
    assert desk.broker.records.failed == {}
    desk.check_books()


def test_an_answer_outlasts_a_worker_that_says_no_more() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, origins=(ONE, TWO), span_ms=1000)
    worker.fail(1, code=Code.OK, sent=True, details=b"SERVFAIL")
    desk.pass_time(1.2)
    assert client.outcomes[1] == [(Code.OK, b"SERVFAIL")]
    desk.check_books()


def test_an_answer_outlasts_the_wait_for_another_lease() -> None:
    desk = Desk()
    worker, client = desk.worker(("dns", False, 1, 1)), desk.client()
    client.submit(1, origins=(ONE, TWO), span_ms=1000)
    client.submit(2, origins=(TWO,), span_ms=5000)
    assert worker.held() == [1, 2]
    worker.fail(1, code=Code.OK, sent=True, details=b"SERVFAIL")
    assert worker.held() == [2]
    desk.pass_time(1.2)
    assert client.outcomes[1] == [(Code.OK, b"SERVFAIL")]
    desk.check_books()


def test_an_answer_outlasts_workers_that_die() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, origins=(ONE, TWO))
    worker.fail(1, code=Code.OK, sent=True, details=b"SERVFAIL")
    while 1 not in client.outcomes:
        worker.die()
        worker = desk.worker()
    assert client.outcomes[1] == [(Code.OK, b"SERVFAIL")]
    desk.check_books()


def test_answers_of_one_lease_are_told_apart() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, 3, origins=(ONE, TWO))
    worker.fail(1, code=Code.OK, sent=True, details=b"one")
    worker.fail(2, code=Code.OK, sent=True, details=b"two")
    worker.fail(3, code=Code.TIMEOUT, sent=True)
    for seq in (1, 2, 3):
        worker.fail(seq, code=Code.CONNECT_FAILED, sent=True)
    assert [client.outcomes[seq][0] for seq in (1, 2)] == [(Code.OK, b"one"), (Code.OK, b"two")]
    assert client.code(3) == Code.CONNECT_FAILED
    desk.check_books()


def test_an_origin_that_answered_badly_is_still_asked_first() -> None:
    """SERVFAIL is mostly about one name: DNSSEC, a zone that is down."""
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, origins=(ONE, TWO))
    worker.fail(1, code=Code.OK, sent=True)
    worker.answer(1)
    client.submit(2, origins=(ONE, TWO))
    assert worker.leases[-1].origin == ONE


def test_each_origin_is_tried_though_a_suspect_one_is_tried_last() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, origins=(ONE, TWO, THREE))
    worker.fail(1, code=Code.TIMEOUT, sent=True)  # from now on ONE is suspect
    worker.answer(1)
    client.submit(2, origins=(ONE, TWO, THREE))
    tried = []
    for _ in range(3):
        tried.append(worker.leases[-1].origin)
        worker.fail(2, code=Code.OK, sent=True, details=tried[-1].encode())
    assert tried == [TWO, THREE, ONE]
    assert client.outcomes[2] == [(Code.OK, ONE.encode())]
    desk.check_books()


def test_an_answer_is_final_for_what_must_not_be_repeated() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, origins=(ONE, TWO), flags=Flag(0))
    worker.fail(1, code=Code.OK, sent=True, details=b"said")
    assert client.outcomes[1] == [(Code.OK, b"said")]
    desk.check_books()
