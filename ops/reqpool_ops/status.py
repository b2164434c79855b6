"""``reqpool status``: ask the broker for its report, and show it as tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import zmq

from reqpool_contract import broker_url, wire
from reqpool_contract.errors import BrokerUnavailable, ProtocolError, UsageError
from reqpool_contract.masking import without_password

from .pools import pools
from .report_values import maps, members, number, text

ANSWER_WITHIN_S = 1.5
"""A broker that does not answer within this span is not well; `status` ends within 2 s in total."""


class StatusClient:
    """Asks one broker for its report. Belongs to one thread.

    Args:
        url: the broker's intake.
        context: makes the socket.
    """

    def __init__(self, url: str, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.maxmsgsize = wire.MAX_MESSAGE_BYTES
        # A broker that is just starting is then found sooner: libzmq retries after 100 ms by default.
        self.socket.reconnect_ivl = 50
        try:
            self.socket.connect(url)
        except zmq.ZMQError:
            self.close()
            raise

    def ask(self, number: int | None = None) -> None:
        """Send a question; the answer may come late or never.

        Args:
            number: returned in the report, which may come after the next question; None for none.
        """
        query = {} if number is None else {"number": number}
        self.socket.send(wire.encode(wire.Verb.STATUS, query), zmq.DONTWAIT)

    def answer(self) -> dict[str, Any] | None:
        """Return the newest report that has come, None if there is none. Never blocks.

        Raises:
            ProtocolError: if the answer is not a broker's.
        """
        report = None
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return report
            verb, values = wire.decode(frames[0], wire.BROKER_TO_CLIENT)
            if verb is wire.Verb.STATUS:
                report = values[0]

    def close(self) -> None:
        """Close the socket; unsent questions are dropped."""
        self.socket.close(0)


def fetch(url: str, timeout_s: float = ANSWER_WITHIN_S) -> dict[str, Any]:
    """Return the report of the broker at `url`.

    Args:
        url: its intake.
        timeout_s: seconds to wait for the answer.

    Raises:
        BrokerUnavailable: if no report came in time, the URL is wrong, or the peer is not a broker.
    """
    try:
        broker_url.check(url)
    except UsageError as error:
        raise BrokerUnavailable(error.text) from error
    deadline_s = time.monotonic() + timeout_s
    with zmq.Context() as context:
        client = StatusClient(url, context)
        try:
            client.ask()
            while (left_s := deadline_s - time.monotonic()) > 0:
                client.socket.poll(int(left_s * 1000) + 1)
                report = client.answer()
                if report is not None:
                    return report
        except ProtocolError as error:
            text = f"the peer at {without_password(url)} is not a broker: {error}"
            raise BrokerUnavailable(text) from error
        finally:
            client.close()
    raise BrokerUnavailable(f"no broker answers at {without_password(url)}")


# --- the tables ------------------------------------------------------------------------------------


def render(report: Mapping[str, Any], ailments: Sequence[str], supervisor: Mapping[str, Any] | None) -> str:
    """Return the report as text for display.

    Args:
        report: as :func:`fetch` returned it.
        ailments: as :func:`reqpool_ops.health.judge` returned them.
        supervisor: the psutil sample of the supervisor with its ``pid``; None if it does not run here.
    """
    parts = ["The pool is well." if not ailments else "Not well: " + text("; ".join(ailments)) + "."]
    rates, counters = members(report.get("rates")), members(report.get("counters"))
    submitted, done = (number(rates.get(key)) or 0.0 for key in ("submitted_per_s", "done_per_s"))
    parts.append(
        f"up {span(report.get('uptime_s'))}, epoch {text(report.get('epoch'))}, "
        f"{submitted:,.0f} requests/s in, {done:,.0f} results/s out"
    )
    parts.append("  ".join(f"{text(name)} {text(value)}" for name, value in flat(counters)))
    connections = members(members(report.get("broker")).get("connections"))
    if connections:
        parts.append("connections  " + "  ".join(f"{text(k)} {text(v)}" for k, v in connections.items()))
    parts.append(table(PROCESS_HEAD, processes(report, supervisor)))
    origins = [
        (short(name), *(members(about).get(key) for key in ORIGIN_KEYS))
        for name, about in sorted(members(report.get("origins")).items())
    ]
    parts.append(table(ORIGIN_HEAD, origins))
    upstreams = [
        (short(upstream), ", ".join(about["names"]), *(about[key] for key in POOL_KEYS))
        for upstream, about in pools(report).items()
    ]
    parts.append(table(POOL_HEAD, upstreams))
    sessions = [
        (
            session.get("name"),
            *(session.get(key) for key in SESSION_KEYS),
            decimal(session.get("silent_s")),
            span(session.get("age_s")),
        )
        for session in maps(report.get("sessions"))
    ]
    parts.append(table(SESSION_HEAD, sessions))
    return "\n\n".join(part for part in parts if part)


ORIGIN_CHARACTERS = 66
DIGEST_CHARACTERS = 6
PROCESS_HEAD = (
    "process", "pid", "state", "CPU %", "RSS MB", "fds", "threads", "lag ms", "busy %",
    "in flight", "silent s",
)  # fmt: skip
ORIGIN_KEYS = (
    "queued", "in_flight", "limit", "granted", "reserved", "owners", "done", "failed", "refused",
    "served_per_s", "service_ms",
)  # fmt: skip
"""The figures that the broker reports of an origin and the table shows."""
ORIGIN_HEAD = ("origin", *(key.replace("_", " ") for key in ORIGIN_KEYS))
POOL_KEYS = ("limit", "reserved", "granted", "open", "idle", "pinned", "waiting", "overflowed")
"""The figures of :func:`~reqpool_ops.pools.pools` that the table shows."""
POOL_HEAD = ("upstream", "name", *POOL_KEYS)
SESSION_KEYS = (
    "pid", "pending", "unacked", "done", "refused", "pending_percent", "bytes_percent", "messages_percent",
)  # fmt: skip
"""The figures that the broker reports of a session and the table shows unchanged."""
SESSION_HEAD = ("session", *(key.replace("_percent", " %") for key in SESSION_KEYS), "silent s", "age")


def short(origin: Any) -> str:
    """Return an origin's name for a table, shortened; enough of its digest stays to tell origins apart."""
    public, mark, digest = text(origin).partition("#")
    if len(public) > ORIGIN_CHARACTERS:
        public = f"{public[: ORIGIN_CHARACTERS * 2 // 3]}…{public[-ORIGIN_CHARACTERS // 3 :]}"
    if len(digest) > DIGEST_CHARACTERS:
        digest = f"{digest[:DIGEST_CHARACTERS]}…"
    return public + mark + digest


def processes(report: Mapping[str, Any], supervisor: Mapping[str, Any] | None) -> list[tuple[Any, ...]]:
    """Return the rows of the process table: supervisor, broker, workers."""
    rows = []
    if supervisor is not None:
        rows.append(("supervisor", supervisor.get("pid"), "live", *figures(supervisor), "", ""))
    broker = members(report.get("broker"))
    rows.append(("broker", broker.get("pid"), "live", *figures(broker), "", ""))
    for worker in sorted(maps(report.get("workers")), key=lambda worker: text(worker.get("name"))):
        rows.append(
            (
                *(worker.get(key) for key in ("name", "pid", "state")),
                *figures(members(worker.get("sample"))),
                worker.get("in_flight"),
                decimal(worker.get("since_heartbeat_s")),
            )
        )
    return rows


def figures(sample: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one process's sample as cells; unknown figures are left blank."""
    return (
        decimal(sample.get("cpu_percent")),
        decimal(sample.get("rss_bytes"), 1e-6),
        count(sample.get("fds")),
        count(sample.get("threads")),
        decimal(sample.get("loop_lag_ms")),
        decimal(sample.get("busy"), 100),
    )


def flat(counters: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield counters with those of nested maps named ``outer.inner``."""
    for name, value in counters.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def decimal(value: Any, factor: float = 1.0) -> str:
    """Return a figure times `factor` with one decimal; empty if it is not a number."""
    figure = number(value)
    return "" if figure is None else f"{figure * factor:.1f}"


def count(value: Any) -> str:
    """Return a figure as a whole number; empty if it is not a number."""
    figure = number(value)
    return "" if figure is None else f"{figure:.0f}"


def span(value: Any) -> str:
    """Return a span in seconds for display: ``45 s``, ``3 min``, ``2.5 h``."""
    seconds = number(value)
    if seconds is None:
        return "?"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return aligned columns, the first left-aligned, the others right-aligned; empty without rows."""
    if not rows:
        return ""
    cells = [list(head)] + [[text(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)
