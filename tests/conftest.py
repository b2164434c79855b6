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


def _require(found: str | None, program: str, package: str) -> None:
    """Fail without the program: a missing server must not turn a whole run green unnoticed.

    It is left out only where that was asked for.
    """
    if found is None:
        reason = f"needs {program} (Debian: apt-get install {package})"
        if os.environ.get("REQPOOL_NO_INSTALL"):
            pytest.skip(reason)
        pytest.fail(reason)


@pytest.fixture(scope="session")
def knot() -> Iterator[KnotServer]:
    """A real DNS server with the zone of :mod:`support.knot`."""
    _require(find_knotd(), "knotd", "knot")
    with KnotServer() as server:
        yield server


@pytest.fixture(scope="session")
def memcached() -> Iterator[MemcachedServer]:
    """A real memcached."""
    _require(find_memcached(), "memcached", "memcached")
    with MemcachedServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis that everybody may log in to."""
    _require(find_redis(), "redis-server", "redis-server")
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariadbServer]:
    """A real MariaDB with the users of :mod:`support.mariadb`."""
    _require(find_mariadbd(), "mariadbd", "mariadb-server")
    with MariadbServer() as server:
        yield server


@pytest.fixture(scope="session")
def nginx() -> Iterator[NginxServer]:
    """A real web server with the places of :mod:`support.nginx`."""
    _require(find_nginx(), "nginx", "nginx-light")
    with NginxServer() as server:
        yield server
