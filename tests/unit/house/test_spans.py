"""Pairs of spans of which one must exceed the other, wherever the two are kept."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import reqpool_broker.broker_spans
import reqpool_broker.epoch
import reqpool_ops.broker_process
import reqpool_ops.demo
import reqpool_ops.health
import reqpool_ops.supervisor
import reqpool_workers.broker_socket
import reqpool_workers.worker_spans
from reqpool import broker_sockets, listener_probe, session_protocol
from reqpool_contract import grace, wire
from reqpool_ops import cluster_spans

BEAT_S = wire.HEARTBEAT_MS / 1000
LIVENESS_S = wire.LIVENESS_MS / 1000
EXPIRY_S = wire.SESSION_EXPIRY_MS / 1000
worker, broker, supervisor = (
    reqpool_workers.worker_spans,
    reqpool_broker.broker_spans,
    reqpool_ops.broker_process,
)


@pytest.mark.parametrize(
    ("shorter_s", "longer_s"),
    [
        # Who is told to end does so before it is killed, its last words included.
        pytest.param(worker.DRAIN_S + worker.GOODBYE_LINGER_S, cluster_spans.WORKER_ENDS_S, id="worker ends"),
        pytest.param(
            broker.COME_S + broker.TICK_S + broker.LAST_WORDS_S + broker.GOODBYE_LINGER_S,
            cluster_spans.BROKER_ENDS_S,
            id="broker ends",
        ),
        pytest.param(
            cluster_spans.SERVE_ON_S + cluster_spans.WORKER_ENDS_S + cluster_spans.BROKER_ENDS_S,
            cluster_spans.STOP_ENDS_S,
            id="cluster ends",
        ),
        pytest.param(broker.STOP_WAIT_S - 0.001, cluster_spans.SERVE_ON_S, id="pinned connections"),
        # What a drain waits for fits in it, and is longer than the way of what it waits for.
        pytest.param(worker.DRAIN_PINS_S + worker.ACKNOWLEDGE_S, worker.DRAIN_S, id="pins, acknowledgements"),
        pytest.param(LIVENESS_S + BEAT_S, worker.ACKNOWLEDGE_S + 0.001, id="a client's reconnection"),
        # A peer is lost only after several heartbeats, and by the supervisor not before its peers give it up.
        pytest.param(2 * BEAT_S, LIVENESS_S, id="liveness"),
        pytest.param(reqpool_ops.health.UNEASY_AFTER_S, LIVENESS_S, id="uneasy about a worker"),
        pytest.param(reqpool_ops.health.BLOCKING_AFTER_S, reqpool_ops.health.HUNG_AFTER_S, id="hung worker"),
        pytest.param(LIVENESS_S - 0.001, reqpool_ops.health.BLOCKING_AFTER_S, id="blocking worker"),
        pytest.param(supervisor.UNEASY_S, supervisor.FROZEN_S, id="uneasy about the broker"),
        pytest.param(supervisor.FROZEN_S, supervisor.HUNG_S, id="hung broker"),
        pytest.param(reqpool_ops.supervisor.ASK_EVERY_S, supervisor.UNEASY_S, id="asking"),
        pytest.param(reqpool_ops.supervisor.ASK_EVERY_S, supervisor.GAP_S, id="looks at the broker"),
        # A session outlives a lost connection and a new broker's start.
        pytest.param(LIVENESS_S + supervisor.READY_S, EXPIRY_S, id="session"),
        pytest.param(EXPIRY_S, reqpool_broker.epoch.WORKER_FORGET_S, id="a silent worker's connections"),
        # An outcome is kept for as long as its client may ask: until its own end, and the loss of its broker.
        pytest.param(grace.CLUSTER_GRACE_S + LIVENESS_S, grace.ASKED_AGAIN_S + 0.001, id="asked again"),
        # Each side waits for the word of the next one, which has less patience.
        pytest.param(broker.TICK_S, grace.LEASE_GRACE_S, id="a late lease"),
        pytest.param(
            grace.LEASE_GRACE_S + broker.TICK_S,
            grace.CLUSTER_GRACE_S,
            id="the broker's word",
        ),
        # Who dials finds a broker that is back before it would be given up.
        pytest.param(reqpool_workers.broker_socket.RECONNECT_MOST_MS / 1000, BEAT_S, id="worker dials"),
        pytest.param(broker_sockets.RECONNECT_MS / 1000, BEAT_S, id="client dials"),
        pytest.param(session_protocol.BACKOFF_MOST_S, LIVENESS_S, id="client says HELLO again"),
        pytest.param(listener_probe.PROBE_AFTER_S + listener_probe.PROBE_S, LIVENESS_S, id="probe"),
    ],
)
def test_the_one_that_waits_has_more_patience(shorter_s: float, longer_s: float) -> None:
    assert shorter_s < longer_s


def test_the_script_waits_for_as_long_as_a_stop_may_take() -> None:
    script = Path(__file__).parents[3].joinpath("ops/start-cluster.sh").read_text()
    found = re.search(r"^stop_s=(\d+)", script, re.MULTILINE)
    assert found is not None
    assert cluster_spans.STOP_ENDS_S <= int(found[1]) < cluster_spans.STOP_ENDS_S + 1


def test_demo_waits_for_its_cluster_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_s: list[float | None] = []

    class Process(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            waited_s.append(timeout)
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Process)
    with reqpool_ops.demo.child(["sleep", "60"]):
        pass
    assert waited_s[0] == cluster_spans.STOP_ENDS_S
