"""Grants: the broker's leave for workers to hold connections, so that one limit holds for all.

No I/O, no clock. What a worker may hold is *reserved* until it confirms less, or is dead for certain; the
sum over all workers and all origins of an upstream never exceeds its limit.
"""

from __future__ import annotations

from reqpool_contract import wire
from reqpool_contract.origin_names import variants
from reqpool_contract.wire import KindInfo, Verb

from . import slot_allocation
from .config import Config
from .origin import Origin
from .origin_table import OriginTable
from .outgoing import Outgoing
from .upstream import Upstream
from .worker import Grant, Worker
from .worker_state import WorkerState

GRANT_IDLE_S = 10.0
"""How long a grant may be unused before its connections are asked back."""


class GrantTable:
    """The connection slots of all workers.

    Args:
        epoch: this broker's.
        outbox: where messages go.
        workers: by id.
        origins: the table of origins.

    Attributes:
        settled: all connections that workers of an earlier epoch may have are recorded. Until then only
            those that are can be granted: connections that were not reported may still be open.
    """

    def __init__(
        self, epoch: int, outbox: Outgoing, workers: dict[bytes, Worker], origins: OriginTable
    ) -> None:
        self.settled = True
        self._epoch = epoch
        self._outbox = outbox
        self._workers = workers
        self._origins = origins

    def reconfigure(self, config: Config) -> None:
        """Take a new configuration; what did not change stays, open connections above all."""
        self._origins.config = config
        self._origins.ways.clear()
        for upstream in self._origins.upstreams.values():
            upstream.policy = config.policy_of(upstream.key)
            for origin in self._origins.at[upstream]:
                origin.policy = config.policy_of(origin.name)
                self._origins.ready[origin] = None
            for (worker, name), grant in upstream.grants.items():
                if grant.policy is not None and grant.policy != config.policy_of(name):
                    self._send_grant(worker, name, grant)
            self.assign(upstream)

    def settle(self) -> None:
        """Note that everything that workers of an earlier epoch may have is recorded."""
        self.settled = True
        for upstream in list(self._origins.upstreams.values()):
            upstream.inherited = 0
            self._origins.desert(upstream)
        self._origins.wake()

    def assign(self, upstream: Upstream) -> None:
        """Grant each worker as many slots there as its load needs and the limit allows."""
        reserved: dict[str, dict[Worker, int]] = {}
        for (worker, name), grant in upstream.grants.items():
            reserved.setdefault(name, {})[worker] = grant.reserved
        claims = []
        limit = 0
        for origin in self._origins.at[upstream]:
            if origin.idle and not origin.granted:
                continue
            owners = origin.owners(self._workers, self._origins.membership)
            holders = reserved.pop(origin.name, {})
            wanted, waits = 0, False
            if owners:
                kind = owners[0].kinds[origin.kind]
                if not kind.connections:
                    continue
                limit = max(limit, kind.limit)
                wanted = origin.wanted(kind.depth)
                waits = kind.waits and kind.prompt_variant not in variants(origin.name)
            claims.append(slot_allocation.Claim(origin.name, wanted, owners, holders, waits))
        # What a worker of an earlier broker holds for an origin that has not been asked for since.
        claims += [slot_allocation.Claim(name, 0, (), holders) for name, holders in reserved.items()]
        upstream.limit = upstream.policy.max_connections or limit or upstream.limit
        most = upstream.limit if self.settled else min(upstream.limit, upstream.inherited)
        for (worker, name), level in slot_allocation.slots(most, claims).items():
            self._set_grant(worker, name, upstream, level)

    def assign_to(self, origin: Origin, owners: list[Worker], kind: KindInfo) -> None:
        """As :meth:`assign`, of the upstream of an origin that requests wait for.

        Where only one worker and one origin are concerned, as most of the time, and what the worker holds
        suffices, nothing would change: then nothing is worked out.
        """
        upstream = origin.upstream
        if (
            len(owners) == 1
            and len(upstream.grants) == 1
            and len(self._origins.at[upstream]) == 1
            and self.settled
            and not kind.waits
        ):
            grant = owners[0].grants.get(origin.name)
            if (
                grant is not None
                and grant.slots == grant.reserved
                and upstream.limit == (upstream.policy.max_connections or kind.limit)
                and origin.wanted(kind.depth) <= grant.slots <= upstream.limit
            ):
                return
        self.assign(upstream)

    def _set_grant(self, worker: Worker, name: str, upstream: Upstream, level: int) -> None:
        grant = worker.grants.get(name)
        before = grant.slots if grant else 0
        if worker.route is None or before == level:
            return
        if grant is None:
            grant = self._new_grant(worker, name, upstream)
        if level > before:
            self._origins.wake_at(upstream)  # it may not be the origin that is being looked at
        grant.number += 1
        grant.slots = level
        grant.reserved = max(grant.reserved, level)
        self._send_grant(worker, name, grant)

    def _send_grant(self, worker: Worker, name: str, grant: Grant) -> None:
        if worker.route is None:
            return
        grant.policy = self._origins.config.policy_of(name)
        head = wire.encode(
            Verb.GRANT,
            self._epoch,
            worker.heartbeat_seen,
            name,
            grant.number,
            grant.slots,
            grant.policy.to_wire(),
        )
        self._outbox.workers.append([worker.route, head])

    def _new_grant(self, worker: Worker, name: str, upstream: Upstream) -> Grant:
        grant = worker.grants[name] = upstream.grants[worker, name] = Grant()
        for origin in self._origins.at[upstream]:
            origin.granted |= origin.name == name
        return grant

    def _end_grant(self, worker: Worker, name: str) -> None:
        del worker.grants[name]
        self._origins.ways.clear()
        upstream = self._origins.upstream(name)
        del upstream.grants[worker, name]
        for origin in self._origins.at[upstream]:
            if origin.name == name:
                origin.granted = any(held == name for _, held in upstream.grants)
        self._origins.desert(upstream)

    def granted(self, worker: Worker, origin: str, number: int, held: int) -> None:
        """Note a worker's confirmation: at most ``held`` connections are open under grant ``number``."""
        grant = worker.grants.get(origin)
        if grant is None or number != grant.number or held > grant.slots:
            return
        grant.reserved = grant.slots
        upstream = self._origins.upstream(origin)
        # Others at the same server may have waited for these slots.
        self._origins.wake_at(upstream)
        if not grant.slots:
            self._end_grant(worker, origin)

    def hold_slots(self, worker: Worker, held: dict[str, int], *, inherited: bool) -> None:
        """After a worker's HELLO: exactly the connections it names are open; no earlier grant is valid.

        Args:
            worker: which sent it.
            held: origin to connections.
            inherited: an earlier epoch had granted them.
        """
        self.forget(worker)
        for name, count in held.items():
            upstream = self._origins.upstream(name)
            if inherited:
                upstream.inherited += count
            grant = self._new_grant(worker, name, upstream)
            grant.slots = grant.reserved = count
            grant.number = 1
            self._send_grant(worker, name, grant)  # the policy that an earlier broker sent may be old

    def take_back(self, now_s: float) -> None:
        """Ask for connections back that have not been used for long."""
        for origin in self._origins:
            if origin.idle and origin.granted and now_s - origin.last_used_s > GRANT_IDLE_S:
                for worker in self._workers.values():
                    if origin.name in worker.grants:
                        self._set_grant(worker, origin.name, origin.upstream, 0)
        # A worker of an earlier broker brought them, and they have not been asked for since.
        for upstream in self._origins.upstreams.values():
            known = {origin.name for origin in self._origins.at[upstream]}
            for worker, name in list(upstream.grants):
                if name not in known and now_s - worker.heartbeats.since_s > GRANT_IDLE_S:
                    self._set_grant(worker, name, upstream, 0)

    def is_spent(self, upstream: Upstream) -> bool:
        """Return whether workers that are able have as many connections as the upstream may have."""
        usable = sum(grant.slots for (worker, _), grant in upstream.grants.items() if worker.able)
        return self.settled and usable >= upstream.limit

    @property
    def is_held_up(self) -> bool:
        """Whether requests wait for slots that a worker which has not reported yet may have."""
        return not self.settled and any(map(self._origins.is_awaited, self._origins.upstreams.values()))

    def is_blocking(self, worker: Worker) -> bool:
        """Return whether it is silent and has what requests wait for: slots, or places, with none left.

        They stay its own until it is dead for certain, so that the limit holds at the server.
        """
        if worker.state is not WorkerState.SUSPECT:
            return False
        for name, grant in worker.grants.items():
            upstream = self._origins.upstream(name)
            if grant.reserved and upstream.reserved >= upstream.limit and self._origins.is_awaited(upstream):
                return True
        return any(
            not worker.kinds[origin.kind].connections
            and origin.upstream.in_flight >= origin.limit
            and self._origins.is_awaited(origin.upstream)
            for origin in self._origins
            if worker in origin.by_worker and origin.kind in worker.kinds
        )

    def forget(self, worker: Worker) -> None:
        """A worker is dead for certain: it holds nothing."""
        for name in list(worker.grants):
            self._end_grant(worker, name)
