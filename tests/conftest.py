"""Fixtures and rules for all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from support.knot import KnotServer, find_knotd
from support.mariadb import MariadbServer, find_mariadbd
from support.memcached import SOURCES, MemcachedServer, find_memcached
from support.nginx import NginxServer, find_nginx
from support.redis_server import RedisServer, find_redis

# The example of docs/kinds.md, which is not installed; what needs it installed installs it.
sys.path.append(str(SOURCES))

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


@pytest.fixture(scope="session")
def memcached() -> Iterator[MemcachedServer]:
    """A real memcached."""
    if find_memcached() is None:
        reason = "needs memcached (Debian: apt-get install memcached)"
        if os.environ.get("REQPOOL_NO_INSTALL"):
            pytest.skip(reason)
        pytest.fail(reason)
    with MemcachedServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis that everybody may log in to."""
    if find_redis() is None:
        reason = "needs redis-server (Debian: apt-get install redis-server)"
        if os.environ.get("REQPOOL_NO_INSTALL"):
            pytest.skip(reason)
        pytest.fail(reason)
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariadbServer]:
    """A real MariaDB with the users of :mod:`support.mariadb`."""
    if find_mariadbd() is None:
        reason = "needs mariadbd (Debian: apt-get install mariadb-server)"
        if os.environ.get("REQPOOL_NO_INSTALL"):
            pytest.skip(reason)
        pytest.fail(reason)
    with MariadbServer() as server:
        yield server


@pytest.fixture(scope="session")
def nginx() -> Iterator[NginxServer]:
    """A real web server with the places of :mod:`support.nginx`."""
    if find_nginx() is None:
        reason = "needs nginx (Debian: apt-get install nginx-light)"
        if os.environ.get("REQPOOL_NO_INSTALL"):
            pytest.skip(reason)
        pytest.fail(reason)
    with NginxServer() as server:
        yield server
