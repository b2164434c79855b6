"""A worker as the broker knows it. No I/O, no clock."""

from __future__ import annotations

from typing import Any

from reqpool_contract import wire
from reqpool_contract.cached_settings import SettingsSender
from reqpool_contract.freshness import HeartbeatLog
from reqpool_contract.policy import Policy
from reqpool_contract.wire import KindInfo, Verb

from .worker_state import TRANSITIONS, WorkerEvent, WorkerState

_LIVE = WorkerState.LIVE


class Grant:
    """Connection slots of one origin at one worker.

    Attributes:
        number: counts up with every GRANT sent.
        slots: what the last GRANT allows.
        reserved: connections that the worker may have, as far as is certain: the most that any GRANT since
            its last confirmed one allowed. The sum over all workers and origins never exceeds the upstream's
            limit.
        policy: what the last GRANT said besides, None if none was sent.
    """

    __slots__ = ("number", "policy", "reserved", "slots")

    def __init__(self) -> None:
        self.policy: Policy | None = None
        self.number = 0
        self.slots = 0
        self.reserved = 0


class Worker:
    """One worker process.

    Attributes:
        id: 16 random bytes, new with every process.
        state: changed by :meth:`move` alone.
        route: routing id of its connection, None while it has none.
        kinds: what it serves.
        in_flight: requests in its leases.
        grants: origin name to its connection slots.
        heartbeats: to it; they decide whether a message is fresh.
        heartbeat_seen: number of its last heartbeat.
        received: number of the last RESULTS processed without a gap.
        base: RESULTS of earlier connections; ``base + number`` is unique in the worker's epoch.
        parts: ``base + number`` of a RESULTS to how many batches published from it are not yet
            acknowledged by their clients.
        sample: the psutil figures of its last heartbeat.
        unconfirmed_bytes: results received since the last heartbeat to it.
        cached: which settings it has cached for this connection.
        max_settings_bytes: the largest it takes.
        warned: the log says that it is a stranger.
        excused: it drains, and need not wait for what it has left: all clients that have not acknowledged
            the results it retains are silent, and it runs nothing, or the cluster stops and everything that
            it runs has had its time.
        told_of: ``received``, :attr:`undelivered` and ``excused`` in the last heartbeat to it.
        full: it handed leases back because it retains too many results; its next heartbeat may differ.
    """

    def __init__(self, id_: bytes, name: str, pid: int, now_s: float) -> None:
        self.id = id_
        self.name = name
        self.pid = pid
        self.state = _LIVE
        self.route: bytes | None = None
        self.kinds: dict[str, KindInfo] = {}
        self.in_flight = 0
        self.grants: dict[str, Grant] = {}
        self.heartbeats = HeartbeatLog(wire.LIVENESS_MS / 1000, now_s)
        self.heartbeat_seen = 0
        self.received = 0
        self.base = 0
        self.parts: dict[int, int] = {}
        self.sample: dict[str, Any] = {}
        self.full = False
        self.warned = False
        self.excused = False
        self.told_of: tuple[int, list[int], bool] = (0, [], False)
        self.unconfirmed_bytes = 0
        self.cached = SettingsSender()
        self.max_settings_bytes = wire.MAX_SETTINGS_BYTES

    def move(self, event: WorkerEvent) -> None:
        """Change the state; a KeyError if this cannot happen in it."""
        self.state = TRANSITIONS[self.state, event]

    @property
    def able(self) -> bool:
        """Whether it may be leased more."""
        return self.state is _LIVE and self.route is not None and not self.full

    def connect(
        self,
        route: bytes,
        name: str,
        pid: int,
        kinds: dict[str, KindInfo],
        keeps: int | None,
        now_s: float,
        *,
        strange: bool,
        epoch: int,
        liveness_s: float,
    ) -> None:
        """Begin a new connection: heartbeats and RESULTS count from 1 again, and it keeps no settings yet.

        ``strange``: the supervisor has not announced it; ``epoch`` and ``liveness_s``: see
        :class:`~reqpool_contract.freshness.HeartbeatLog`; the others are attributes.
        """
        self.cached = SettingsSender(keeps or 0)
        self.max_settings_bytes = wire.UNTOLD_SETTINGS_BYTES if keeps is None else wire.MAX_SETTINGS_BYTES
        self.route = route
        self.name = name
        self.pid = pid
        self.kinds = kinds
        self.move(WorkerEvent.STRANGE if strange else WorkerEvent.HELLO)
        self.full = False
        self.heartbeats.begin(epoch, liveness_s, now_s)
        self.heartbeat_seen = 0
        self.base += self.received
        self.received = 0
        self.parts = {}
        self.excused = False
        self.told_of = (0, [], False)

    def heartbeat(self, now_s: float) -> bytes:
        """Return the next heartbeat to it."""
        self.unconfirmed_bytes = 0
        number = self.heartbeats.beat(now_s)
        self.told_of = (self.received, self.undelivered, self.excused)
        return wire.encode(Verb.HEARTBEAT, self.heartbeats.epoch, self.heartbeat_seen, number, *self.told_of)

    @property
    def undelivered(self) -> list[int]:
        """Numbers of received RESULTS of which some client has not acknowledged its part."""
        return [number - self.base for number in self.parts]

    @property
    def waits_for_news(self) -> bool:
        """Whether a heartbeat could report more about the results that it retains."""
        return self.told_of != (self.received, self.undelivered, self.excused)

    def part_published(self) -> int:
        """Note that a batch was published from the RESULTS just received; returns its unique number."""
        self.excused = False
        number = self.base + self.received
        self.parts[number] = self.parts.get(number, 0) + 1
        return number

    def part_delivered(self, number: int) -> None:
        """Note that a client has acknowledged a batch published from RESULTS ``number``."""
        left = self.parts.get(number)
        if left == 1:
            del self.parts[number]
        elif left is not None:
            self.parts[number] = left - 1

    def cpu_share(self) -> float:
        """Return the part of one core that it used recently, 0 to about 1."""
        percent = self.sample.get("cpu_percent", 0.0)
        return percent / 100 if isinstance(percent, (int, float)) else 0.0

    def report(self, now_s: float, since_s: float, *, blocking: bool) -> dict[str, Any]:
        """Return what ``reqpool status`` shows.

        Args:
            now_s: monotonic seconds.
            since_s: since when it has the oldest of what a drain would wait for; ``now_s`` if nothing.
            blocking: it is silent, and others wait for what it has.
        """
        return {
            "id": self.id.hex(),
            "name": self.name,
            "pid": self.pid,
            "state": self.state.value,
            "in_flight": self.in_flight,
            "oldest_s": round(now_s - since_s, 3),
            "since_heartbeat_s": round(now_s - self.heartbeats.heard_s, 3),
            "blocking": blocking,
            "sample": self.sample,
        }
