"""Fixtures and rules for all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

from support.knot import KnotServer
from support.mariadb import MariadbServer
from support.memcached import SOURCES, MemcachedServer
from support.nginx import NginxServer
from support.redis_server import RedisServer
from support.server import Server

# The example of docs/kinds.md, which is not installed; what needs it installed installs it.
sys.path.append(str(SOURCES))

# Time limits per example fail on a loaded machine, for no fault of the code.
settings.register_profile("reqpool", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reqpool")

ServerT = TypeVar("ServerT", bound=Server)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="minutes of load; runs with --long"))


def _running(server: type[ServerT]) -> Iterator[ServerT]:
    """Run a server; fail without the program: its absence must not turn a whole run green unnoticed.

    It is left out only where that was asked for.
    """
    if server.find() is None:
        reason = f"needs {server.program} (Debian: apt-get install {server.package})"
        if os.environ.get("REQPOOL_NO_INSTALL"):
            pytest.skip(reason)
        pytest.fail(reason)
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def knot() -> Iterator[KnotServer]:
    """A real DNS server with the zone of :mod:`support.knot`."""
    yield from _running(KnotServer)


@pytest.fixture(scope="session")
def memcached() -> Iterator[MemcachedServer]:
    """A real memcached."""
    yield from _running(MemcachedServer)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis that everybody may log in to."""
    yield from _running(RedisServer)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariadbServer]:
    """A real MariaDB with the users of :mod:`support.mariadb`."""
    yield from _running(MariadbServer)


@pytest.fixture(scope="session")
def nginx() -> Iterator[NginxServer]:
    """A real web server with the places of :mod:`support.nginx`."""
    yield from _running(NginxServer)
