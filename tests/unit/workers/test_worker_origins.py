"""Which origins there are, and what each was granted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reqpool_contract.errors import UsageError
from reqpool_contract.policy import Policy
from reqpool_workers.event_loop import EventLoop
from reqpool_workers.lease_outcomes import LeaseOutcomes
from reqpool_workers.owed_ports import OwedPorts
from reqpool_workers.resolver import Resolver
from reqpool_workers.stream_origin import StreamOrigin
from reqpool_workers.worker_ledger import WorkerLedger
from reqpool_workers.worker_origins import WorkerOrigins
from support.lines import lines

ORIGIN = "lines://192.0.2.1:7"


@pytest.fixture
def origins() -> Iterator[WorkerOrigins]:
    loop, ports = EventLoop(), OwedPorts()
    resolver = Resolver(loop, ports)
    yield WorkerOrigins(loop, LeaseOutcomes(WorkerLedger()), lines(1, "others"), resolver, ports)
    resolver.close("the test is over")
    loop.close()


def pool_of(origins: WorkerOrigins, kind: str = "lines") -> StreamOrigin:
    origin = origins.reach(kind, ORIGIN, b"")
    assert isinstance(origin, StreamOrigin)
    return origin


def test_an_origin_is_made_once(origins: WorkerOrigins) -> None:
    assert origins.find("lines", ORIGIN) is None
    assert origins.reach("lines", ORIGIN, b"") is origins.reach("lines", ORIGIN, b"")
    assert origins.find("lines", ORIGIN) is not None


def test_settings_of_another_origin_are_refused(origins: WorkerOrigins) -> None:
    origins.reach("lines", ORIGIN, b"")
    with pytest.raises(UsageError, match="do not match"):
        origins.reach("lines", ORIGIN, b"other")


def test_a_kind_that_is_not_installed_is_named(origins: WorkerOrigins) -> None:
    with pytest.raises(UsageError, match="no kind 'unknown'"):
        origins.reach("unknown", ORIGIN, b"")


def test_a_grant_counts_for_an_origin_that_is_made_later(origins: WorkerOrigins) -> None:
    origins.grant(ORIGIN, 3, Policy(retries=0))
    pool = pool_of(origins).pool
    assert (pool.slots.granted, pool.policy.retries) == (3, 0)


def test_kinds_share_what_was_granted_to_one_name(origins: WorkerOrigins) -> None:
    one, other = pool_of(origins), pool_of(origins, "others")
    origins.grant(ORIGIN, 2, Policy())
    assert one.pool.slots is other.pool.slots
    assert one.pool.slots.granted == 2


def test_lapsed_grants_count_for_no_origin_made_later(origins: WorkerOrigins) -> None:
    origins.grant(ORIGIN, 2, Policy())
    origins.open_no_more()
    assert pool_of(origins).pool.slots.granted == 0


def test_an_origin_is_forgotten_once_it_has_no_grant_and_no_connection(origins: WorkerOrigins) -> None:
    origins.reach("lines", ORIGIN, b"")
    origins.grant(ORIGIN, 1, Policy())
    origins.tend(1.0)
    assert origins.find("lines", ORIGIN) is not None
    origins.grant(ORIGIN, 0, Policy())
    origins.tend(2.0)
    assert origins.find("lines", ORIGIN) is None
