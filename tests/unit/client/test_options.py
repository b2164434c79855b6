"""The options of every request: said once, taken by every method, and a wrong name is an error at once."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

import reqpool
from reqpool.dispatcher import Dispatcher
from reqpool_contract.wire import Flag, Verb
from support.fake_broker import FakeBroker

Method: TypeAlias = Callable[..., reqpool.Future[Any]]

OPTIONS = ("timeout", "callback", "priority", "idempotent", "block")
METHODS: dict[str, Method] = {
    "submit": lambda pool, **options: pool.submit("udp", "127.0.0.1:9", b"x", **options),
    "dns": lambda pool, **options: pool.dns("example.com", server="127.0.0.1", **options),
    "udp": lambda pool, **options: pool.udp("127.0.0.1:9", b"x", **options),
    "tcp": lambda pool, **options: pool.tcp("127.0.0.1:9", b"x", **options),
    "http": lambda pool, **options: pool.http("GET", "http://127.0.0.1/", **options),
    "redis": lambda pool, **options: pool.redis("redis://127.0.0.1", "PING", **options),
    "redis_multi": lambda pool, **options: pool.redis_multi("redis://127.0.0.1", [("PING",)], **options),
    "mysql": lambda pool, **options: pool.mysql("mysql://u@127.0.0.1", "SELECT 1", **options),
}


def test_what_a_pool_offers() -> None:
    public = [name for name in dir(reqpool.Pool) if not name.startswith("_")]
    assert public == sorted([*METHODS, "close", "map", "mysql_session", "redis_session", "stats"])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_every_option(broker: FakeBroker, pool: reqpool.Pool, name: str) -> None:
    seen: list[Any] = []
    for idempotent in (True, False):
        METHODS[name](
            pool, timeout=3, callback=seen.append, priority=2, idempotent=idempotent, block=True
        ).exception(5)
    groups = [group for verb, fields in list(broker.heads) if verb is Verb.SUBMIT for group in fields[2]]
    assert [bool(group.flags & Flag.IDEMPOTENT) for group in groups] == [True, False]
    assert [group.priority for group in groups] == [2, 2]
    assert max(group.span_ms for group in groups) <= 4_000
    pool.close()
    assert len(seen) == 2


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_option_is_named_by_a_type_error_at_the_call(name: str) -> None:
    with reqpool.Pool("tcp://127.0.0.1:1") as pool:
        with pytest.raises(TypeError, match="'tiemout'"):
            METHODS[name](pool, tiemout=4)
        assert pool.stats().state == "unused"


def test_the_error_names_the_options_that_there_are() -> None:
    with reqpool.Pool("tcp://127.0.0.1:1") as pool, pytest.raises(TypeError) as caught:
        METHODS["dns"](pool, tiemout=4)
    assert all(name in str(caught.value) for name in OPTIONS)


def test_options_are_declared_and_explained_in_one_place() -> None:
    assert tuple(reqpool.Options.__annotations__) == OPTIONS
    explained = inspect.getdoc(reqpool.Options) or ""
    assert all(f"\n    {name}: " in explained for name in OPTIONS)
    assert set(OPTIONS) < set(inspect.signature(Dispatcher.ask).parameters)


@pytest.mark.parametrize("name", METHODS)
def test_help_names_the_options_and_where_they_are_explained(name: str) -> None:
    text = pydoc.render_doc(getattr(reqpool.Pool, name), renderer=pydoc.plaintext)
    assert "timeout, callback, priority, idempotent, block" in text
    assert "reqpool.Options" in text
