"""The Celery application of the benchmark: the same look-up as a task, with settings at Celery's best."""

from __future__ import annotations

import os

from celery import Celery

from .query import BareQuery

_redis_url = os.environ["BENCH_REDIS_URL"]

app = Celery("bench", broker=_redis_url, backend=_redis_url)
app.conf.update(
    # Nothing in the way of a task that Celery lets one turn off.
    task_serializer="json",
    result_serializer="json",
    worker_disable_rate_limits=True,
    task_acks_late=False,
    task_track_started=False,
    task_send_sent_event=False,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    # Short tasks: fetch many ahead (docs "Optimizing", "Prefetch limits").
    worker_prefetch_multiplier=100,
    result_expires=60,
    broker_connection_retry_on_startup=True,
)

_query: BareQuery | None = None


@app.task  # type: ignore[untyped-decorator]
def look_up(server: str, name: str) -> str:
    """Return the answer as hex: what JSON can carry of the bytes that reqpool's futures hold."""
    global _query
    if _query is None:  # one socket per worker process, made after the fork
        _query = BareQuery(server)
    return _query.ask(name).hex()
