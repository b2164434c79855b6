"""Fixtures and rules for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from support.knot import KnotServer, find_knotd

# Time limits per example fail on a loaded machine, for no fault of the code.
settings.register_profile("reqpool", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reqpool")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="minutes of load; runs with --long"))


@pytest.fixture(scope="session")
def knot() -> Iterator[KnotServer]:
    """A real DNS server with the zone of :mod:`support.knot`."""
    if find_knotd() is None:
        reason = "needs knotd (Debian: apt-get install knot)"
        # A missing server must not turn a whole run green unnoticed: left out only when that was asked for.
        if os.environ.get("REQPOOL_NO_INSTALL"):
            pytest.skip(reason)
        pytest.fail(reason)
    with KnotServer() as server:
        yield server
