"""What GRANT carries of a policy, and how a worker reads it."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool_contract.errors import ProtocolError
from reqpool_contract.policy import Policy

WORKERS_PART = Policy(
    connect_timeout_s=1.5, read_timeout_s=0.25, idle_timeout_s=7.0, lifetime_s=70.0, max_response_bytes=9,
    retries=0, pin_idle_timeout_s=3.0,
)  # fmt: skip


@pytest.mark.parametrize("policy", [Policy(), WORKERS_PART])
def test_a_worker_reads_what_the_broker_wrote(policy: Policy) -> None:
    assert Policy.of_wire(policy.to_wire()) == policy


def test_the_brokers_part_does_not_travel() -> None:
    told = Policy(max_connections=3, max_in_flight=4, queue_timeout_s=5.0).to_wire()
    assert told == Policy().to_wire()
    assert {"max_bytes", "read_ms"}.isdisjoint(told)


def test_fields_that_are_absent_or_unknown_leave_the_defaults() -> None:
    assert Policy.of_wire({"idle_ms": 10, "of a later version": None}) == Policy(idle_timeout_s=0.01)


@pytest.mark.parametrize("value", [-1, 1.5, "1", None, True])
@pytest.mark.parametrize("name", ["connect_ms", "read_ms", "max_bytes", "retries"])
def test_a_field_that_is_not_an_unsigned_integer_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ProtocolError, match="unsigned"):
        Policy.of_wire({name: value})
