"""Asking a broker for its report, and showing it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from reqpool import wire
from reqpool.errors import BrokerUnavailable
from reqpool_ops import status

REPORT = {
    "epoch": 7,
    "uptime_s": 90.0,
    "broker": {
        "pid": 10, "cpu_percent": 12.5, "rss_bytes": 30_000_000, "fds": 20, "threads": 3, "loop_lag_ms": 0.7,
    },
    "sessions": [{"name": "shop", "pid": 77, "pending": 5, "queued": 2, "unacked": 1, "age_s": 9000.0}],
    "workers": [
        {
            "name": "worker-1", "id": b"1" * 16, "pid": 11, "state": "live", "in_flight": 3,
            "since_heartbeat_s": 0.2,
            "sample": {"cpu_percent": 50.0, "rss_bytes": 40_000_000, "fds": 30, "threads": 2, "busy": 0.5},
        },
    ],
    "origins": {
        "tcp://127.0.0.1:7": {
            "queued": 2, "in_flight": 3, "limit": 64, "connections": {"granted": 8, "held": 4}, "owners": 1,
            "done": 1000, "failed": 1,
        },
        "dns://127.0.0.1:53": {
            "queued": 0, "in_flight": 0, "limit": 512, "owners": 0, "done": 5, "failed": 0,
        },
    },
    "rates": {"submitted_per_s": 1234.0, "done_per_s": 1200.0},
    "counters": {"submitted": 2000, "malformed": {"intake": 4}},
}  # fmt: skip


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
    serving = answer(router, wire.encode(wire.Verb.STATUS, REPORT))
    report = status.fetch(router.last_endpoint.decode())
    serving.join()
    assert report["rates"] == REPORT["rates"]


def test_what_is_no_broker_is_said(router: zmq.Socket[bytes]) -> None:
    serving = answer(router, b"220 ready\r\n")
    with pytest.raises(BrokerUnavailable, match="is no broker"):
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
    with pytest.raises(BrokerUnavailable, match="is no URL"):
        status.fetch(url)


def cells(text: str, first: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(first)).split()


def test_the_table_shows_processes_origins_sessions_and_rates() -> None:
    text = status.render(
        REPORT, [], {"pid": 9, "cpu_percent": 0.1, "rss_bytes": 1_000_000, "fds": 5, "threads": 1}
    )
    assert text.startswith("The pool is well.")
    assert "1,234 requests/s in, 1,200 results/s out" in text
    assert "malformed.intake 4" in text
    assert cells(text, "supervisor") == ["supervisor", "9", "live", "0.1", "1.0", "5", "1"]
    assert cells(text, "broker") == ["broker", "10", "live", "12.5", "30.0", "20", "3", "0.7"]
    assert cells(text, "worker-1") == [
        "worker-1",
        "11",
        "live",
        "50.0",
        "40.0",
        "30",
        "2",
        "50.0",
        "3",
        "0.2",
    ]
    assert cells(text, "tcp://") == ["tcp://127.0.0.1:7", "2", "3", "64", "8", "4", "1", "1000", "1"]
    assert cells(text, "dns://") == ["dns://127.0.0.1:53", "0", "0", "512", "0", "5", "0"]
    assert cells(text, "shop") == ["shop", "77", "5", "2", "1", "2.5", "h"]


def test_ailments_come_first() -> None:
    assert status.render(REPORT, ["no worker is live"], None).startswith("Not well: no worker is live.")


def test_a_report_of_another_version_is_shown_as_far_as_it_goes() -> None:
    assert "process" in status.render({}, [], None)
