"""What the client's tests have in common: a scripted broker, and a pool at it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import reqpool
from support.fake_broker import FakeBroker
from support.wait import wait_until


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as broker:
        yield broker


@pytest.fixture
def pool(broker: FakeBroker) -> Iterator[reqpool.Pool]:
    with reqpool.Pool(broker.url) as pool:
        yield pool
        pool.close(drain=False)


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    names = ("reqpool-io", "reqpool-relief", "fake-broker")
    wait_until(lambda: not [t for t in threading.enumerate() if t.name in names], 10, "threads to end")
