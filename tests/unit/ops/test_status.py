"""Asking a broker for its report, and showing it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from reqpool_contract import wire
from reqpool_contract.errors import BrokerUnavailable
from reqpool_ops import status
from reqpool_ops.report_values import plain
from support.fake_peers import DNS, TCP, Desk
from support.reports import pooled


def report(**sample: Any) -> dict[str, Any]:
    """A report as a broker writes it: one session, one worker, a connectionless upstream and a busy one."""
    desk = Desk()
    worker = desk.worker(TCP, DNS, name="worker-1", pid=11)
    client = desk.client(name="shop", pid=77)
    client.submit(*range(1, 101), origins=("tcp://127.0.0.1:7",), kind="tcp")
    client.submit(*range(101, 105))
    worker.answer(101, 102, 103, 104)
    worker.answer(1)
    desk.pass_time(1.2)
    desk.broker.status.sample = {
        "pid": 10, "cpu_percent": 12.5, "rss_bytes": 30_000_000, "fds": 20, "threads": 3, "loop_lag_ms": 0.7,
    }  # fmt: skip
    desk.broker.records.workers[worker.id].sample = sample or {
        "cpu_percent": 50.0, "rss_bytes": 40_000_000, "fds": 30, "threads": 2, "loop_lag_ms": 1.5,
        "busy": 0.5,
    }  # fmt: skip
    verb, (made,) = wire.decode(
        wire.encode(wire.Verb.STATUS, desk.broker.status.make(desk.now_s)), wire.BROKER_TO_CLIENT
    )
    assert verb is wire.Verb.STATUS
    return made


@pytest.fixture
def router(tmp_path: Path) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.bind("tcp://127.0.0.1:*")
        yield socket


def answer(router: zmq.Socket[bytes], reply: bytes) -> threading.Thread:
    def serve() -> None:
        if router.poll(5000):
            route, question = router.recv_multipart()
            assert wire.decode(question, wire.CLIENT_TO_BROKER) == (wire.Verb.STATUS, [{}])
            router.send_multipart([route, reply])

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_report_comes_as_it_was_sent(router: zmq.Socket[bytes]) -> None:
    serving = answer(router, wire.encode(wire.Verb.STATUS, {"epoch": 7}))
    assert status.fetch(router.last_endpoint.decode()) == {"epoch": 7}
    serving.join()


def test_what_is_no_broker_is_said(router: zmq.Socket[bytes]) -> None:
    serving = answer(router, b"220 ready\r\n")
    with pytest.raises(BrokerUnavailable, match="is not a broker"):
        status.fetch(router.last_endpoint.decode())
    serving.join()


def test_nobody_there_is_said_within_two_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        started_s = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="no broker answers"):
            status.fetch(url)
    assert time.monotonic() - started_s < 2.0


@pytest.mark.parametrize("url", ["", "nonsense", "tcp://", "http://127.0.0.1:80"])
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"is not a broker URL|has no host"):
        status.fetch(url)


def row(text: str, first: str, head: Sequence[str]) -> dict[str, str]:
    """Return the row that begins with `first`, up to its first blank cell, by the heads of its table."""
    assert (
        "  ".join(head).split()
        == next(line for line in text.splitlines() if line.startswith(head[0])).split()
    )
    line = next(line for line in text.splitlines() if line.startswith(first))
    return dict(zip(head, line.split(), strict=False))


def test_the_table_shows_what_the_broker_reports() -> None:
    made = report()
    text = status.render(
        made, [], {"pid": 9, "cpu_percent": 0.1, "rss_bytes": 1_000_000, "fds": 5, "threads": 1}
    )
    assert text.startswith("The pool is well.")
    assert "requests/s in" in text
    assert "submitted 104" in text
    assert "malformed.intake 0" in text
    supervisor, broker, worker = (
        row(text, name, status.PROCESS_HEAD) for name in ("supervisor", "broker", "worker-1")
    )
    assert list(supervisor.values()) == ["supervisor", "9", "live", "0.1", "1.0", "5", "1"]
    assert list(broker.values()) == ["broker", "10", "live", "12.5", "30.0", "20", "3", "0.7"]
    assert worker == {
        "process": "worker-1", "pid": "11", "state": "live", "CPU %": "50.0", "RSS MB": "40.0", "fds": "30",
        "threads": "2", "lag ms": "1.5", "busy %": "50.0", "in flight": "16",
        "silent s": f"{made['workers'][0]['since_heartbeat_s']:.1f}",
    }  # fmt: skip
    assert row(text, "tcp://", status.ORIGIN_HEAD) == {
        "origin": "tcp://127.0.0.1:7", "queued": "83", "in flight": "16", "limit": "8", "granted": "8",
        "reserved": "8", "owners": "1", "done": "1", "failed": "0", "refused": "0",
    }  # fmt: skip
    assert row(text, "dns://", status.ORIGIN_HEAD) == {
        "origin": "dns://127.0.0.1:53", "queued": "0", "in flight": "0", "limit": "256", "granted": "0",
        "reserved": "0", "owners": "1", "done": "4", "failed": "0", "refused": "0",
    }  # fmt: skip
    assert row(text, "shop", status.SESSION_HEAD) == {
        "session": "shop", "pid": "77", "pending": "99",
        "unacked": str(made["sessions"][0]["unacked"]), "done": "5",
        "refused": "0", "pending %": "0.0", "bytes %": "0.0", "messages %": "0.0",
        "silent s": f"{made['sessions'][0]['silent_s']:.1f}", "age": "1",
    }  # fmt: skip


def test_no_column_is_empty_for_what_a_broker_reports() -> None:
    made = report()
    for about, keys in (
        *((origin, status.ORIGIN_KEYS) for origin in made["origins"].values()),
        *((session, status.SESSION_KEYS) for session in made["sessions"]),
    ):
        assert set(keys) <= about.keys()


def test_the_table_of_upstreams_sums_connections_up() -> None:
    text = status.render(pooled(), [], None)
    head, _, redis, *_ = text[text.index("upstream ") :].splitlines()
    assert head.split() == ["upstream", "name", *status.POOL_KEYS]
    assert redis.startswith("redis://127.0.0.1:6379  cache, sessions ")
    assert redis.split()[3:] == ["8", "5", "4", "5", "1", "1", "5", "8"]


def test_origins_are_shown_without_the_length_of_their_digests() -> None:
    text = status.render(pooled(), [], None)
    assert "redis://127.0.0.1:6379/0#012345… " in text
    assert status.short("unix:///" + "x" * 500 + "/redis.sock#" + "0" * 20).endswith("xxx/redis.sock#000000…")
    assert len(status.short("unix:///" + "x" * 500 + "/redis.sock#" + "0" * 20)) < 80


def test_figures_that_are_none_are_left_out() -> None:
    for nonsense in ("x", b"x", None, [1], {"a": 1}, float("nan"), True):
        names = ("cpu_percent", "rss_bytes", "fds", "threads", "loop_lag_ms", "busy")
        text = status.render(report(**dict.fromkeys(names, nonsense)), [], None)
        assert next(line for line in text.splitlines() if line.startswith("worker-1")).split()[:4] == [
            "worker-1", "11", "live", "16",
        ]  # fmt: skip
        for name in ("workers", "sessions", "origins", "rates", "counters", "broker", "uptime_s", "epoch"):
            status.render(report() | {name: nonsense}, [], None)


def test_names_cannot_move_the_cursor() -> None:
    desk = Desk()
    desk.worker(name="w\x1b[2J\nbroker  1  live")
    desk.client(name="s\r\x9b\u202e", pid=5).submit(1, origins=("dns://\x07",))
    text = status.render(desk.broker.status.make(desk.now_s), ["\x1b is suspect"], None)
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"w\x1b[2J\nbroker  1  live" in text
    assert r"s\r\x9b\u202e" in text
    assert r"Not well: \x1b is suspect" in text


def test_a_report_as_json_is_json_whatever_is_in_it() -> None:
    odd = {"id": b"\xff", "sample": {"cpu_percent": float("nan"), "x": {b"\x00": [float("inf"), 1.5]}}}
    assert json.loads(json.dumps(plain(odd), allow_nan=False)) == {
        "id": "ff", "sample": {"cpu_percent": None, "x": {"00": [None, 1.5]}},
    }  # fmt: skip


def test_ailments_come_first() -> None:
    assert status.render(report(), ["no worker is live"], None).startswith("Not well: no worker is live.")


def test_a_report_of_another_version_is_shown_as_far_as_it_goes() -> None:
    assert "process" in status.render({}, [], None)
