"""One step of a look-up: when its questions are sent again, and what is dropped."""

from __future__ import annotations

from typing import cast

import pytest

from reqpool_workers.datagram_sender import DatagramSender
from reqpool_workers.lease import Dropped, Request, WorkerLease
from reqpool_workers.look_up import RTYPES, Step
from reqpool_workers.name_query import NameQuery, end


class Server:
    """Takes what is sent; sends again at an instant."""

    name = "dns://192.0.2.1:53"

    def __init__(self, again_s: float | None = None) -> None:
        self.again_s = again_s
        self.sent: list[Request] = []
        self.dropped: list[Request] = []

    def submit(self, lease: WorkerLease, now_s: float) -> None:
        self.sent += lease.requests
        if self.again_s is not None:
            lease.resend_s = self.again_s

    def resend(self, lease: WorkerLease, now_s: float) -> float | None:
        return self.again_s

    def drop(self, request: Request, reason: str) -> Dropped:
        self.dropped.append(request)
        return Dropped("read", True)


def begun(server: Server) -> NameQuery:
    return NameQuery(Step(server.name, "db.test", 1.5), cast(DatagramSender, server), 100.0)


def test_each_family_is_asked_for() -> None:
    server = Server()
    query = begun(server)
    query.send(100.0)
    assert [RTYPES[request.seq] for request in server.sent] == list(RTYPES)
    assert all(b"\x02db\x04test\x00" in request.payload for request in server.sent)
    assert len({request.payload for request in server.sent}) == len(RTYPES)


@pytest.mark.parametrize(("again_s", "due_s"), [(100.2, 100.2), (102.0, 101.5), (None, 101.5)])
def test_it_is_sent_again_until_its_time_is_up(again_s: float | None, due_s: float) -> None:
    query = begun(Server(again_s))
    assert query.send(100.0) == due_s
    assert query.resend(100.1) == due_s


def test_only_what_has_not_been_answered_is_dropped() -> None:
    server = Server()
    query = begun(server)
    query.send(100.0)
    answered, other = server.sent
    end(answered)
    query.drop()
    assert server.dropped == [other]
    assert not query.lease.live
    query.drop()
    assert server.dropped == [other]
