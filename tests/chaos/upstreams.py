"""The servers of a run, the relays before them, and what was executed there."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import psutil

from support.knot import KnotServer
from support.mariadb import MariadbServer
from support.nginx import NginxServer
from support.ports import HOST, free_port
from support.redis_server import RedisServer
from support.server import Server

from . import counting
from .relay import Relay, Relays
from .work import LOG_KEY, PAIRS_KEY, REDIS_KEYS, TABLE, Targets

KEYS_AT_ONCE = 1000
COUNTING = "counting"

# An acknowledged write has to survive SIGKILL: it is handed to the kernel before the answer is. Redis puts
# that off while an fsync runs, so it must not call fsync (aof.c, flushAppendOnlyFile).
REDIS_KEEPS = ("appendonly yes", "appendfsync no", "auto-aof-rewrite-percentage 0", "maxclients 1000")
MARIADB_KEEPS = "--innodb-flush-log-at-trx-commit=2"


class CountingServer(Server):
    """:mod:`.counting` as a process.

    Attributes:
        http, tcp, udp: its ports.
        executions: path of its journal.
    """

    program: ClassVar[str] = "python"
    package: ClassVar[str] = "python3"

    @classmethod
    def find(cls) -> str:
        """See :class:`Server`."""
        return sys.executable

    def command_line(self, program: str) -> list[str]:
        """See :class:`Server`."""
        self.http, self.tcp, self.udp = free_port(), free_port(), free_port()
        self.executions = self.folder / "executions"
        ports = map(str, (self.http, self.tcp, self.udp))
        return [program, "-P", counting.__file__, str(self.executions), *ports]

    def answers(self) -> bool:
        """See :class:`Server`."""
        return accepts(self.tcp)


def accepts(port: int) -> bool:
    """Does somebody take connections at a port?"""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((HOST, port)) == 0


@dataclass
class Executions:
    """What ran upstream.

    Attributes:
        counts: how often, by the request's number.
        partial: numbers of what was to be applied as a whole and was not.
    """

    counts: Counter[str] = field(default_factory=Counter)
    partial: set[str] = field(default_factory=set)

    def add_parts(self, number: str, parts: list[int]) -> None:
        """Add something that has parts: each was executed so many times."""
        self.counts[number] += max(parts)
        if min(parts) != max(parts):
            self.partial.add(number)


class Upstreams:
    """Running servers; made by :func:`running`.

    Attributes:
        targets: what producers name.
        servers: by name; for faults.
        relays: by the server's name; for faults.
        named: tables of ``reqpool.toml``, url by name.
    """

    def __init__(self) -> None:
        self.targets: Targets = {}
        self.servers: dict[str, Server] = {}
        self.relays: dict[str, Relay] = {}
        self.named: dict[str, str] = {}

    def add(self, server: Server, relays: Relays) -> None:
        """Add a running server."""
        self.servers[COUNTING if isinstance(server, CountingServer) else server.program] = server
        match server:
            case CountingServer():
                self._add_counting(server, relays)
            case KnotServer():
                self.targets["dns"] = [server.address]
            case NginxServer():
                self.targets["http"] = [server.url]
            case RedisServer():
                self._add_redis(server, relays)
            case MariadbServer():
                self._add_mariadb(server, relays)

    def _add_counting(self, server: CountingServer, relays: Relays) -> None:
        posts, lines = relays.to(server.http), relays.to(server.tcp)
        self.relays |= {"posts": posts, "lines": lines}
        self.targets["posts"] = [f"http://{HOST}:{server.http}", f"http://{HOST}:{posts.place}"]
        self.targets["tcp"] = [f"{HOST}:{server.tcp}", f"{HOST}:{lines.place}", "lines"]
        self.targets["udp"] = [f"{HOST}:{server.udp}"]
        self.named["lines"] = f"tcp://{HOST}:{server.tcp}"

    def _add_redis(self, server: RedisServer, relays: Relays) -> None:
        for key in range(REDIS_KEYS):
            server.command("SET", f"value:{key}", f"value:{key}")
        relay = self.relays["redis"] = relays.to(int(server.address.rpartition(":")[2]))
        self.targets["redis"] = [server.url, f"redis://{HOST}:{relay.place}", "cache"]
        self.named["cache"] = server.url

    def _add_mariadb(self, server: MariadbServer, relays: Relays) -> None:
        server.run(
            f"CREATE TABLE {TABLE} "
            "(id BIGINT AUTO_INCREMENT PRIMARY KEY, number VARCHAR(40), part INT, slept INT)"
        )
        relay = self.relays["mariadb"] = relays.to(server.port)
        direct = server.url("free", "")
        self.targets["mysql"] = [direct, direct.replace(f":{server.port}", f":{relay.place}"), "shop"]
        self.named["shop"] = direct

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes of a server."""
        server = psutil.Process(self.servers[name].pid)
        return [server, *server.children(recursive=True)]

    def executions(self) -> Executions:
        """Read what was executed; every server has to be running."""
        found = Executions()
        server = self.servers[COUNTING]
        assert isinstance(server, CountingServer)
        with contextlib.suppress(FileNotFoundError), server.executions.open() as lines:
            found.counts.update(line.rstrip("\n") for line in lines)
        redis, mariadb = self.servers.get("redis-server"), self.servers.get("mariadbd")
        if isinstance(redis, RedisServer):
            _count_redis(redis, found)
        if isinstance(mariadb, MariadbServer):
            _count_mariadb(mariadb, found)
        return found


def _count_redis(server: RedisServer, found: Executions) -> None:
    found.counts.update(_listed(server, LOG_KEY))
    found.counts.update(_counted(server, "count:"))
    pushed, counted = _listed(server, PAIRS_KEY), _counted(server, "pair:")
    for number in pushed.keys() | counted.keys():
        found.add_parts(number, [pushed[number], counted[number]])


def _listed(server: RedisServer, key: str) -> Counter[str]:
    return Counter(number.decode() for number in server.command("LRANGE", key, 0, -1, timeout_s=60))


def _counted(server: RedisServer, prefix: str) -> Counter[str]:
    counted: Counter[str] = Counter()
    cursor = b"0"
    while True:
        cursor, keys = server.command("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", KEYS_AT_ONCE)
        values = server.command("MGET", *keys) if keys else []
        for key, value in zip(keys, values, strict=True):  # SCAN may name a key more than once
            counted[key.decode().removeprefix(prefix)] = int(value)
        if cursor == b"0":
            return counted


def _count_mariadb(server: MariadbServer, found: Executions) -> None:
    rows = server.run(
        f"SELECT number, SUM(part = 0), SUM(part = 1), SUM(part = 2) FROM {TABLE} GROUP BY number"
    )
    for number, alone, first, second in rows:
        if alone:
            found.counts[number] += int(alone)
        else:
            found.add_parts(number, [int(first), int(second)])


@contextlib.contextmanager
def running() -> Iterator[tuple[Upstreams, list[str]]]:
    """Run every server that is installed.

    Yields:
        The servers, and a line for each that is missing.
    """
    upstreams, missing = Upstreams(), []
    with contextlib.ExitStack() as stack:
        relays = stack.enter_context(Relays())
        redis, mariadb = RedisServer(*REDIS_KEEPS), MariadbServer(MARIADB_KEEPS)
        for server in (CountingServer(), KnotServer(), NginxServer(), redis, mariadb):
            if server.find() is None:
                missing.append(f"{server.program} (Debian: apt-get install {server.package})")
            else:
                upstreams.add(stack.enter_context(server), relays)
        yield upstreams, missing
