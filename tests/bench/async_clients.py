"""Asynchronous client libraries under one interface; each is imported only when it is used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any
from urllib.parse import urlsplit

from .asked import Subject


class AsyncClient(ABC):
    """One library.

    Args:
        server: ``host:port`` for dns, else the upstream's URL.
        subject: what is asked.
        connections: at most, where the library pools them.

    Attributes:
        errors: what it raises when a request fails.
    """

    errors: tuple[type[BaseException], ...]

    def __init__(self, server: str, subject: Subject, connections: int) -> None:
        self.server, self.subject, self.connections = server, subject, connections

    @abstractmethod
    async def open(self) -> None:
        """Make what all requests share."""

    @abstractmethod
    async def ask(self, target: Any) -> Any:
        """Return the answer, complete, as the library gives it."""

    def look(self, target: Any, answer: Any) -> None:
        """Look at the answer.

        Raises:
            WrongAnswer: if it belongs to another request.
        """
        self.subject.check(target, answer)

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything."""


class Aiodns(AsyncClient):
    """aiodns 4 as everybody gets it: pycares runs c-ares in a thread of its own and each answer crosses over
    by ``call_soon_threadsafe``. With ``query_dns``, which is cheaper than the deprecated ``query``."""

    async def open(self) -> None:
        import aiodns

        self.errors = (aiodns.error.DNSError,)
        # The same patience as the other contestants; more would hide losses.
        self._resolver = self._class()(nameservers=[self.server], timeout=2.0, tries=3)

    def _class(self) -> Any:
        import aiodns

        return aiodns.DNSResolver

    async def ask(self, target: str) -> Any:
        return await self._resolver.query_dns(target, "A")

    def look(self, target: str, answer: Any) -> None:
        self.subject.check(target, [record.data.addr for record in answer.answer])

    async def close(self) -> None:
        await self._resolver.close()


class InlineAiodns(Aiodns):
    """The path aiodns itself takes only when no inotify watch can be had: c-ares' sockets on the event loop.

    It costs about half, but cannot be asked for; it is in the table as the most that aiodns could be.
    """

    def _class(self) -> Any:
        import weakref

        import aiodns
        import pycares

        class Resolver(aiodns.DNSResolver):
            def _make_channel(self, **kwargs: Any) -> tuple[bool, pycares.Channel]:
                myself = weakref.ref(self)

                def on_socket_state(fd: int, readable: bool, writable: bool) -> None:
                    resolver = myself()
                    if resolver is not None:
                        resolver._sock_state_cb(fd, readable, writable)

                channel = pycares.Channel(sock_state_cb=on_socket_state, timeout=self._timeout, **kwargs)
                return False, channel

        return Resolver


class Aiohttp(AsyncClient):
    """aiohttp: one session; no cookie jar, which costs something per answer and holds nothing here."""

    async def open(self) -> None:
        import aiohttp

        self.errors = (aiohttp.ClientError, TimeoutError)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.connections), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def ask(self, target: str) -> tuple[int, bytes]:
        async with self._session.get(target) as response:
            return response.status, await response.read()

    async def close(self) -> None:
        await self._session.close()


class RedisAsyncio(AsyncClient):
    """redis-py's asyncio side, with hiredis: one client over one pool of connections."""

    async def open(self) -> None:
        import redis
        import redis.asyncio

        self.errors = (redis.RedisError, OSError)
        self._client = redis.asyncio.Redis.from_url(self.server, max_connections=self.connections)

    async def ask(self, target: str) -> Any:
        return await self._client.get(target)

    async def close(self) -> None:
        await self._client.aclose()


class Asyncmy(AsyncClient):
    """asyncmy, whose protocol is in Cython, with its pool."""

    library = "asyncmy"

    async def open(self) -> None:
        import importlib

        library = importlib.import_module(self.library)
        self.errors = (library.errors.Error if self.library == "asyncmy" else library.Error, OSError)
        url = urlsplit(self.server)
        self._pool = await library.create_pool(
            host=url.hostname,
            port=url.port,
            user=url.username,
            password=url.password or "",
            db=url.path.removeprefix("/"),
            charset="utf8mb4",
            autocommit=True,
            minsize=self.connections,
            maxsize=self.connections,
        )

    async def ask(self, target: int) -> Any:
        async with self._pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(self.subject.sql, (target,))
            return await cursor.fetchall()

    async def close(self) -> None:
        self._pool.close()
        await self._pool.wait_closed()


class Aiomysql(Asyncmy):
    """aiomysql, which asyncmy took its interface from: PyMySQL's protocol on asyncio streams."""

    library = "aiomysql"


CLIENTS: dict[str, type[AsyncClient]] = {
    "aiodns": Aiodns,
    "aiodns-inline": InlineAiodns,
    "aiohttp": Aiohttp,
    "redis-asyncio": RedisAsyncio,
    "asyncmy": Asyncmy,
    "aiomysql": Aiomysql,
}
