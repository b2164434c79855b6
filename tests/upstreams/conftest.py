"""What all tests of upstreams have in common: a pool at the cluster ``running``, which each file starts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import reqpool
from support.cluster import Cluster


@pytest.fixture(scope="module")
def pool(running: Cluster, request: pytest.FixtureRequest) -> Iterator[reqpool.Pool]:
    """A pool whose requests end after the file's ``TIMEOUT_S``, 5 s if it says nothing; none is left over."""
    with reqpool.Pool(running.url, timeout=getattr(request.module, "TIMEOUT_S", 5.0)) as opened:
        yield opened
        assert opened.stats().pending == 0
