"""More is asked of a slow upstream than it serves: real processes, and what apps are told."""

from __future__ import annotations

from typing import Any

import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.line_server import LineServer
from support.wait import wait_until

CONNECTIONS = 4
DELAY_S = 0.05
WAITING = 1600
"""Requests that take the upstream 20 s."""


def test_what_would_wait_for_too_long_is_refused_at_once_and_other_clients_are_served() -> None:
    with LineServer(DELAY_S) as server:
        config = f'[upstreams.line]\nurl = "tcp://{server.address}"\nmax_connections = {CONNECTIONS}\n'
        with (
            cluster(workers=1, config=config) as running,
            reqpool.Pool(running.url) as greedy,
            reqpool.Pool(running.url) as modest,
        ):

            def ask(pool: reqpool.Pool, timeout: float) -> reqpool.Future[bytes]:
                return pool.tcp("line", b"hello\n", until=b"\n", timeout=timeout)

            patient = [ask(greedy, 600.0) for _ in range(WAITING)]
            wait_until(lambda: figures(running).get("served_per_s"), 30, "the broker knows what is served")
            with pytest.raises(
                reqpool.Overloaded, match=r"the upstream serves .* are ahead of it"
            ) as refused:
                ask(greedy, 3.0).result()
            error = refused.value
            assert error.phase == "queue"
            assert error.sent is False
            assert error.retry_after_s is not None
            assert error.retry_after_s > 3.0
            assert error.elapsed_s is not None
            assert error.elapsed_s < 3.0  # long before its time was up
            assert ask(modest, 30.0).result() == b"hello\n"
            assert not patient[-1].done()  # it had its turn before all that came before it
            assert figures(running)["refused"] == 1
            for future in patient:
                future.cancel()


def figures(running: Cluster) -> dict[str, Any]:
    """What ``status`` says of the one origin; nothing before there is one."""
    about: dict[str, Any] = next(iter(running.report()["origins"].values()), {})
    return about
