"""What a caller gives that the wire could not carry is refused at the call, and its neighbours go on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

import reqpool
from reqpool import kinds
from reqpool.kinds import Route
from reqpool_contract import origin_names, wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Verb
from support import certificates
from support.fake_broker import FakeBroker, echo, silence
from support.plain import KIND, ONCE, Plain, ask
from support.wait import wait_until


class Other(Plain):
    """A kind of somebody else's that makes a route of its target's keyword arguments."""

    def encode(self, target: Any, payload: Any, *args: Any, **options: Any) -> tuple[Route, bytes, Any]:
        about = {"kind": self, "origins": ("plain://other",), "idempotent": True, **target}
        return Route(**about), payload, None


OTHER = Other()


def other(payload: Any = b"x", **about: Any) -> Callable[[reqpool.Pool], Any]:
    return lambda pool: pool.submit(OTHER, about, payload)


def called(name: Any) -> Callable[[reqpool.Pool], Any]:
    kind = Other()
    kind.name = name  # type: ignore[misc]
    return lambda pool: pool.submit(kind, {}, b"x")


def origin_of(kind: str, url: str, *payload: Any) -> str:
    found: str = kinds.find(kind).encode(url, *payload)[0].origins[0]  # type: ignore[call-arg]
    return found


def url_of(length: int, url: str, kind: str, *payload: Any) -> str:
    """Fill ``{}`` in a URL so that its origin, digest and all, has so many characters."""
    return url.format("d" * (length - len(origin_of(kind, url.format("d"), *payload)) + 1))


def redis(length: int) -> Callable[[reqpool.Pool], Any]:
    return lambda pool: pool.redis(
        url_of(length, "redis://{}:secret@h:6390/0", "redis", ("GET", "a")), "GET", "a"
    )


def mysql(length: int) -> Callable[[reqpool.Pool], Any]:
    return lambda pool: pool.mysql(url_of(length, "mysql://app:secret@h/{}", "mysql", "SELECT 1"), "SELECT 1")


def password(size: int) -> Callable[[reqpool.Pool], Any]:
    overhead = len(msgpack.packb({"password": "p" * size})) - size
    return lambda pool: pool.redis(f"redis://:{'p' * (size - overhead)}@h", "GET", "a")


MOST_PAYLOAD = bytes(wire.MAX_PAYLOAD_BYTES)
CASES: list[tuple[str, Callable[[reqpool.Pool], Any] | None, Callable[[reqpool.Pool], Any], str]] = [
    # What it is of, the last that is taken, the first that is not, and what is said of it.
    ("kind's name", called("k" * 64), called("k" * 65), "1 to 64 characters"),
    ("kind's name empty", called("k"), called(""), "1 to 64 characters"),
    ("kind's name type", None, called(b"plain"), "b'plain' is not a kind name"),
    ("kind's name surrogate", called("ü"), called("k\ud800"), "cannot be encoded as UTF-8"),
    ("upstreams", other(origins=("o",) * 8), other(origins=("o",) * 9), "1 to 8 upstreams"),
    ("no upstream", other(origins=("o",)), other(origins=()), "1 to 8 upstreams"),
    ("upstreams type", None, other(origins=["o"]), "tuple of 1 to 8 upstreams"),
    ("dns servers",
     lambda pool: pool.dns("a.test", server=["127.0.0.1"] * 8),
     lambda pool: pool.dns("a.test", server=["127.0.0.1"] * 9), "8"),
    ("origin", other(origins=("o" * 1_024,)), other(origins=("o" * 1_025,)), "1025 characters; at most 1024"),
    ("origin empty", None, other(origins=("",)), "'' is not an upstream name"),
    ("origin type", None, other(origins=(b"o",)), "b'o' is not an upstream name"),
    ("origin surrogate", other(origins=("ü",)), other(origins=("o\udfff",)), "cannot be encoded as UTF-8"),
    ("redis user", redis(1_024), redis(1_025), "1025 characters; at most 1024"),
    ("mysql database", mysql(1_024), mysql(1_025), "1025 characters; at most 1024"),
    ("settings", other(settings=bytes(1 << 20)), other(settings=bytes((1 << 20) + 1)),
     "1048577 bytes; at most 1048576"),
    ("settings type", None, other(settings="text"), "the settings are str"),
    ("password", password(1 << 20), password((1 << 20) + 1), "password of an upstream have 1048577 bytes"),
    ("pin", other(pin=2**64 - 1, idempotent=False), other(pin=2**64), "18446744073709551616 is not a number"),
    ("pin below", other(pin=0, idempotent=False), other(pin=-1), "pin=-1"),
    ("payload", other(MOST_PAYLOAD), other(MOST_PAYLOAD + b"x"), "16777217 bytes; at most 16777216 are"),
    ("payload type", other(b""), other("text"), "encoded the request as str"),
    ("udp payload", None, lambda pool: pool.udp("127.0.0.1:9", bytes(65_508)), "65508"),
    ("priority", lambda pool: ask(pool, priority=2), lambda pool: ask(pool, priority=3), "priority=3"),
    ("priority below",
     lambda pool: ask(pool, priority=0), lambda pool: ask(pool, priority=-1), "priority=-1"),
    ("timeout", lambda pool: ask(pool, timeout=86_400), lambda pool: ask(pool, timeout=86_400.001), "24 h"),
    ("timeout huge", None, lambda pool: ask(pool, timeout=2**64), "24 h"),
    ("http max_bytes",
     lambda pool: pool.http("GET", "http://h/", max_bytes=48 << 20),
     lambda pool: pool.http("GET", "http://h/", max_bytes=(48 << 20) + 1), "50331648"),
    ("tcp max_bytes", None,
     lambda pool: pool.tcp("127.0.0.1:9", b"", until=b"\n", max_bytes=2**64), "max_bytes"),
    ("kind", None, lambda pool: pool.submit(5, "x", b"x"), "kind=5 is neither a kind"),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize(("most", "over", "says"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_what_is_over_a_bound_is_refused_at_the_call_and_its_neighbours_are_answered(
    broker: FakeBroker,
    pool: reqpool.Pool,
    most: Callable[[reqpool.Pool], Any] | None,
    over: Callable[[reqpool.Pool], Any],
    says: str,
) -> None:
    broker.liveness_ms = 10_000  # a payload of 16 MiB may take its time here
    broker.answer = lambda seq, payload: echo(seq, payload[:5])
    before = ask(pool)
    with pytest.raises(reqpool.UsageError) as caught:
        over(pool)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400
    last = None if most is None else most(pool)
    assert [before.result(5), ask(pool).result(5)] == [b"hello", b"hello"]
    if last is not None:
        wait_until(last.done, 5)
        assert last._code == Code.OK
    said = [fields for verb, fields in broker.heads if verb is Verb.SUBMIT]
    assert all(type(group) is wire.SubmitGroup for fields in said for group in fields[2])
    assert broker.count(Verb.HELLO) == 1


@pytest.mark.parametrize("part", ["\ud800", "p\udcffw"])
def test_password_that_is_no_unicode_is_refused_without_being_shown(part: str) -> None:
    with pytest.raises(reqpool.UsageError, match="password cannot be sent: it is not UTF-8") as caught:
        origin_names.endpoint("redis://h:1", {"password": f"hunter2{part}"})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


# --- TLS files -------------------------------------------------------------------------------------


def test_tls_file_over_the_bound_is_named_with_its_size(tmp_path: Path, pool: reqpool.Pool) -> None:
    good = certificates.bundle(tmp_path / "debian.pem", 219_597)
    taken = pool.http("GET", "https://h/", tls=reqpool.Tls(ca=good))
    wait_until(taken.done, 5)
    assert taken._code == Code.OK
    large = certificates.bundle(tmp_path / "large.pem", wire.MAX_SETTINGS_BYTES + 1)
    with pytest.raises(reqpool.UsageError, match=r"ca='.*large\.pem' has 1048577 bytes; at most 1048576"):
        pool.http("GET", "https://h/", tls=reqpool.Tls(ca=large))
    own = certificates.make(tmp_path).client
    chain = own.cert.read_text() + own.key.read_text()
    half = certificates.bundle(tmp_path / "half.pem", wire.MAX_SETTINGS_BYTES // 2 + 1_000, chain)
    with pytest.raises(
        reqpool.UsageError, match=r"ca='.*half\.pem' has 52\d{4} bytes, cert='.*; at most 1048576"
    ):
        pool.redis("rediss://h", "GET", "a", tls=reqpool.Tls(ca=half, cert=half))
    assert ask(pool).result(5) == b"hello"


def test_endless_tls_file_is_not_read_for_ever(pool: reqpool.Pool) -> None:
    with pytest.raises(reqpool.UsageError, match=r"ca='/dev/zero' has 1048577 bytes"):
        pool.http("GET", "https://h/", tls=reqpool.Tls(ca="/dev/zero"))


# --- settings that are kept ------------------------------------------------------------------------

LARGE = [bytes([n]) * 200_000 for n in range(20)]
ROUTES = [Route(KIND, ("plain://large",), True, settings) for settings in LARGE]


def ask_with(pool: reqpool.Pool, *numbers: int) -> list[Any]:
    return [pool._dispatcher.ask(ROUTES[n], b"%d" % n, None) for n in numbers]


def groups(broker: FakeBroker) -> list[wire.SubmitGroup]:
    return [group for verb, fields in list(broker.heads) if verb is Verb.SUBMIT for group in fields[2]]


def settings_seen(broker: FakeBroker) -> dict[int, set[bytes]]:
    """What settings each request had, its payload's number being that of its settings."""
    kept: dict[int, bytes] = {}
    seen: dict[int, set[bytes]] = {}
    for verb, fields in list(broker.heads):
        if verb is Verb.HELLO:
            kept = {}
        elif verb is Verb.KEEP:
            kept[fields[0]] = fields[1]
        elif verb is Verb.SUBMIT:
            for group in fields[2]:
                settings = group.settings if group.kept is None else kept[group.kept]
                for payload in group.payloads:
                    seen.setdefault(int(payload), set()).add(settings)
    return seen


def test_large_settings_travel_once_for_a_connection(broker: FakeBroker, pool: reqpool.Pool) -> None:
    for _ in range(5):
        (future,) = ask_with(pool, 1)
        future.result(5)
    assert broker.count(Verb.KEEP) == 1
    assert settings_seen(broker) == {1: {LARGE[1]}}
    broker.answer = silence
    (open_,) = ask_with(pool, 1)
    wait_until(lambda: len(groups(broker)) == 6, 5)
    broker.do(lambda: setattr(broker, "answer", echo))
    broker.restart()
    assert open_.result(5) == b"1"
    assert settings_seen(broker) == {1: {LARGE[1]}}
    assert broker.count(Verb.KEEP) == 2


@pytest.mark.parametrize("keeps", [None, 0, 1, 3, 8])
def test_each_request_has_its_own_settings_however_few_are_kept(
    broker: FakeBroker, pool: reqpool.Pool, keeps: int | None
) -> None:
    broker.keeps = keeps
    broker.liveness_ms = 10_000
    for _ in range(4):
        for future in ask_with(pool, *range(20), *range(19, -1, -1)):
            future.result(10)
    assert settings_seen(broker) == {n: {LARGE[n]} for n in range(20)}
    if not keeps:
        assert broker.count(Verb.KEEP) == 0
    assert broker.count(Verb.HELLO) == 1


def test_small_settings_travel_with_their_requests(broker: FakeBroker, pool: reqpool.Pool) -> None:
    route = Route(KIND, ("plain://small",), True, b"s" * (wire.KEPT_FROM_BYTES - 1))
    pool._dispatcher.ask(route, b"1", None).result(5)
    assert broker.count(Verb.KEEP) == 0
    assert groups(broker)[0].settings == route.settings


def test_settings_that_are_not_kept_count_for_the_size_of_a_message(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    broker.keeps = None
    broker.liveness_ms = 10_000
    broker.answer = silence
    ask(pool)
    wait_until(lambda: bool(groups(broker)), 5)
    routes = [Route(KIND, ("plain://large",), True, bytes([n]) * 1_000_000) for n in range(100)]
    futures = [pool._dispatcher.ask(route, b"x", None, timeout=60) for route in routes]
    wait_until(lambda: len(groups(broker)) == 101, 20)
    sizes = [len(wire.encode(verb, *fields)) for verb, fields in broker.heads if verb is Verb.SUBMIT]
    assert max(sizes) < 2 * wire.MAX_BATCH_BYTES
    assert broker.count(Verb.HELLO) == 1
    assert not any(future.done() for future in futures)


# --- what comes back -------------------------------------------------------------------------------


def test_blob_that_cannot_be_read_does_not_stop_what_comes_behind(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    broker.answer = silence
    futures = [ask(pool, b"%d" % n, timeout=20) for n in range(3)]
    wait_until(lambda: len(broker.submitted) == 3, 5)
    first, second, third = (future.seq for future in futures)
    broker.publish_blob(b"\xc1 nothing that can be read")
    broker.publish_blob(msgpack.packb([first, 0, b"yes", second, 0, "text"]))
    broker.finish(third, data=b"yes")
    assert futures[0].result(5) == futures[2].result(5) == b"yes"
    with pytest.raises(reqpool.ProtocolError, match="its result cannot be read"):
        futures[1].result(5)
    assert pool.stats().ignored == 2
    assert pool.stats().gaps == 0


def test_program_whose_name_is_no_unicode_has_a_pool(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/srv/caf\udce9" + "x" * 300])
    with reqpool.Pool(broker.url) as pool:
        assert ask(pool).result(5) == b"hello"
    (about,) = [fields[2] for verb, fields in broker.heads if verb is Verb.HELLO]
    assert about["name"].startswith("caf\\udce9xxx")
    assert len(about["name"]) == wire.MAX_NAME_CHARS


def test_route_is_checked_once_and_not_with_each_request() -> None:
    assert ONCE.origins == ("plain://once",)
    with pytest.raises(reqpool.UsageError):
        Route(KIND, ("x" * 1_025,), True)
