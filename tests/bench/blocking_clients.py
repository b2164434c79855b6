"""Blocking client libraries under one interface; each is imported only when it is used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any
from urllib.parse import urlsplit

from .asked import Subject


class BlockingClient(ABC):
    """One library with one connection; one thread at a time may use it.

    Args:
        server: the upstream's URL.
        subject: what is asked.

    Attributes:
        errors: what it raises when a request fails.
    """

    errors: tuple[type[BaseException], ...]

    @abstractmethod
    def __init__(self, server: str, subject: Subject) -> None: ...

    @abstractmethod
    def ask(self, target: Any) -> Any:
        """Return the answer, complete, in the subject's plain form."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection."""


class Requests(BlockingClient):
    """requests: a session, which keeps its connection alive."""

    def __init__(self, server: str, subject: Subject) -> None:
        import requests

        self.errors = (requests.RequestException,)
        self._session = requests.Session()

    def ask(self, target: str) -> tuple[int, bytes]:
        response = self._session.get(target)
        return response.status_code, response.content

    def close(self) -> None:
        self._session.close()


class RedisPy(BlockingClient):
    """redis-py, with hiredis."""

    def __init__(self, server: str, subject: Subject) -> None:
        import redis

        self.errors = (redis.RedisError, OSError)
        self._client = redis.Redis.from_url(server)

    def ask(self, target: str) -> Any:
        return self._client.get(target)

    def close(self) -> None:
        self._client.close()


class PyMysql(BlockingClient):
    """PyMySQL."""

    def __init__(self, server: str, subject: Subject) -> None:
        import pymysql

        self.errors = (pymysql.Error, OSError)
        url = urlsplit(server)
        self._sql = subject.sql
        self._connection = pymysql.connect(
            host=url.hostname,
            port=url.port or 3306,
            user=url.username,
            password=url.password or "",
            database=url.path.removeprefix("/"),
            charset="utf8mb4",
            autocommit=True,
        )

    def ask(self, target: int) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(self._sql, (target,))
            return cursor.fetchall()

    def close(self) -> None:
        self._connection.close()


CLIENTS: dict[str, type[BlockingClient]] = {
    "requests": Requests,
    "redis-py": RedisPy,
    "pymysql": PyMysql,
}
