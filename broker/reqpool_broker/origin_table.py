"""The table of origins: which are busy, which may be forgotten. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator

from reqpool_contract.origin_names import upstream_of

from .config import EMPTY, Config
from .fair_queue import QueuedGroup
from .origin import Origin
from .terms import Asked
from .upstream import Upstream
from .way import MAX_WAYS, Way

IDLE_SPAN_S = 300.0
"""How long an unused origin's counters are kept."""
MAX_IDLE = 1_024
"""Unused origins kept at most: a crawl over a million servers must not be remembered."""


class OriginTable:
    """Origins by kind and name.

    By both, so that a request of a kind that is not served cannot block another kind's.

    Attributes:
        ready: those to be looked at at the next leasing, in order (a dict used as an ordered set).
        config: names and policies of upstreams.
        upstreams: by key.
        at: origins that lead to each upstream and are known; a user, a database each.
        queued_at: those of them that something waits for, and perhaps some that nothing waits for any more.
        idle: origins that had nothing to do when they were last looked at, the longest idle first.
        is_crowded: there may be more of these than are kept.
        ways: where groups are leased without queueing, by what their clients asked.
        membership: changes whenever a worker comes, goes or changes its state.
    """

    def __init__(self, config: Config = EMPTY) -> None:
        self.config = config
        self.upstreams: dict[str, Upstream] = {}
        self.at: dict[Upstream, dict[Origin, None]] = {}
        self.queued_at: dict[Upstream, dict[Origin, None]] = {}
        self.membership = 0
        self.ready: dict[Origin, None] = {}
        self._all: dict[tuple[str, str], Origin] = {}
        self._queued: dict[Origin, None] = {}
        self.idle: dict[Origin, None] = {}
        self.is_crowded = False
        self.ways: dict[Asked, Way] = {}

    def __iter__(self) -> Iterator[Origin]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def get(self, kind: str, name: str, now_s: float) -> Origin:
        """Find an origin; a new one if there is none."""
        origin = self._all.get((kind, name))
        if origin is None:
            upstream = self.upstream(name)
            origin = self._all[kind, name] = Origin(name, kind, upstream, now_s)
            origin.policy = self.config.policy_of(name)
            origin.granted = any(granted == name for _, granted in upstream.grants)
            self.at[upstream][origin] = None
            self.idle[origin] = None
            if not self.is_crowded and len(self._all) > MAX_IDLE:
                self.is_crowded = True
                self.sweep()
        return origin

    def upstream(self, name: str) -> Upstream:
        """Find the upstream that an origin's name leads to; a new one if there is none."""
        key = upstream_of(name)
        upstream = self.upstreams.get(key)
        if upstream is None:
            upstream = self.upstreams[key] = Upstream(key, self.config.policy_of(key))
            self.at[upstream] = {}
            self.queued_at[upstream] = {}
        return upstream

    def desert(self, upstream: Upstream) -> None:
        """Forget an upstream if nothing is known of it any more."""
        if self.is_deserted(upstream) and self.upstreams.pop(upstream.key, None) is not None:
            del self.at[upstream], self.queued_at[upstream]

    def is_deserted(self, upstream: Upstream) -> bool:
        """Whether nothing is known of an upstream any more."""
        return not (self.at[upstream] or upstream.grants or upstream.inherited)

    def named(self, name: str) -> list[Origin]:
        """All origins of this name, whatever their kind. Slow."""
        return [origin for origin in self._all.values() if origin.name == name]

    def learn(self, asked: Asked, way: Way) -> None:
        """Remember where a group was leased."""
        if len(self.ways) >= MAX_WAYS:
            self.ways.clear()
        self.ways[asked] = way

    def push(self, origin: Origin, group: QueuedGroup, *, front: bool) -> None:
        """Let a group wait for an origin."""
        origin.queue.push(group, front=front)
        self.use(origin)
        self._queued[origin] = None
        self.queued_at[origin.upstream][origin] = None
        self.ready[origin] = None

    def use(self, origin: Origin) -> None:
        """Note that an origin is idle no longer."""
        self.idle.pop(origin, None)

    def queued(self) -> list[Origin]:
        """Those that something waits for."""
        gone = [origin for origin in self._queued if not origin.queue.waiting]
        for origin in gone:
            del self._queued[origin]
            self.settle(origin)
        return list(self._queued)

    def wake(self) -> None:
        """Look at every queue at the next leasing."""
        self.ready.update(dict.fromkeys(self.queued()))

    def wake_at(self, upstream: Upstream) -> None:
        """Look at all that waits for an upstream: what one of its origins gives up, another may need."""
        self.ready.update(self.queued_at[upstream])

    def is_awaited(self, upstream: Upstream) -> bool:
        """Whether a request waits for room at an upstream."""
        return any(origin.queue.waiting for origin in self.queued_at[upstream])

    def take_turns(self, upstream: Upstream) -> None:
        """Where there are too few connections for each origin to have one, let another one be the first."""
        waiting = [origin for origin in self.queued_at[upstream] if origin.queue.waiting]
        if len(waiting) < 2:
            return
        granted = {name for (_, name), grant in upstream.grants.items() if grant.slots}
        if all(origin.name in granted for origin in waiting):
            return
        origins = self.at[upstream]
        for origin in origins:
            if origin.queue.waiting:
                origins[origin] = origins.pop(origin)
                return

    def settle(self, origin: Origin) -> None:
        """Note that an origin may have become idle; the longest idle one over the bound is forgotten."""
        if not origin.idle or origin in self.idle:
            return
        self.idle[origin] = None
        if len(self.idle) > MAX_IDLE:
            for oldest in self.idle:
                if not oldest.granted:
                    self._forget(oldest)
                    return

    def sweep(self) -> None:
        """Look which origins have become idle; while there are not too many, nothing else notes it."""
        for origin in self._all.values():
            if origin.idle:
                self.idle.setdefault(origin)

    def forget_old(self, now_s: float) -> None:
        """Forget the counters of origins that have not been used for long, and the oldest over the bound."""
        self.sweep()
        self.is_crowded = len(self._all) > MAX_IDLE // 2
        over = len(self.idle) - MAX_IDLE
        for origin in list(self.idle):
            if (over > 0 or now_s - origin.last_used_s > IDLE_SPAN_S) and not origin.granted:
                over -= 1
                self._forget(origin)

    def report(self, most: int) -> dict[str, dict[str, object]]:
        """The origins with the most to do, for the status report."""
        busiest = sorted(self, key=lambda o: (o.queue.waiting + o.in_flight, o.last_used_s), reverse=True)
        report: dict[str, dict[str, object]] = {}
        for origin in busiest[:most]:
            name = origin.name if origin.name not in report else f"{origin.name} ({origin.kind})"
            report[name] = self._report(origin)
        return report

    def _report(self, origin: Origin) -> dict[str, object]:
        """One origin for the status report."""
        service = origin.service
        grants = [grant for (_, name), grant in origin.upstream.grants.items() if name == origin.name]
        return {
            "kind": origin.kind,
            "upstream": origin.upstream.key,
            "names": [named.name for named in self.config.by_key(origin.upstream.key)],
            "pinned": sum(origin.pins.values()),
            "queued": origin.queue.waiting,
            "in_flight": origin.in_flight,
            "limit": origin.limit,
            "granted": sum(grant.slots for grant in grants),
            "reserved": sum(grant.reserved for grant in grants),
            "owners": origin.owner_count,
            "done": origin.done,
            "failed": origin.failed,
            "refused": origin.refused,
            "served_per_s": round(service.served_per_s, 1) if service.known else None,
            "service_ms": round(service.time_s * 1000, 1) if service.known else None,
        }

    def _forget(self, origin: Origin) -> None:
        origin.is_forgotten = True
        del self.idle[origin]
        del self._all[origin.kind, origin.name]
        self.ready.pop(origin, None)
        self._queued.pop(origin, None)
        self.queued_at[origin.upstream].pop(origin, None)
        del self.at[origin.upstream][origin]
        self.desert(origin.upstream)
