"""The origins that a worker talks to, and how many connections it may have to each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reqpool_contract.errors import UsageError
from reqpool_contract.policy import Policy

from .connection_pool import Slots
from .datagram_origin import DatagramOrigin
from .event_loop import EventLoop
from .lease import Pin, Request
from .lease_outcomes import LeaseOutcomes
from .owed_ports import OwedPorts
from .protocols.worker_kinds import DatagramKind, StreamKind, WorkerKind
from .resolver import Resolver
from .stream_origin import StreamOrigin

Origin = DatagramOrigin | StreamOrigin


class WorkerOrigins:
    """All origins by kind and name, each made at its first lease. Implements :class:`.Upstreams`.

    Args:
        loop: that of this thread.
        outcomes: where requests end.
        kinds: by name.
        resolver: looks up hosts of origins with connections.
        owed_ports: keep ports of origins without.
    """

    def __init__(
        self,
        loop: EventLoop,
        outcomes: LeaseOutcomes,
        kinds: Mapping[str, WorkerKind],
        resolver: Resolver,
        owed_ports: OwedPorts,
    ) -> None:
        self._loop = loop
        self._outcomes = outcomes
        self._kinds = kinds
        self._resolver = resolver
        self._owed_ports = owed_ports
        self._origins: dict[tuple[str, str], Origin] = {}
        self._slots: dict[str, Slots] = {}
        self._grants: dict[str, tuple[int, Policy]] = {}

    def find(self, kind: str, name: str) -> Origin | None:
        """Return the origin, if there is one."""
        return self._origins.get((kind, name))

    def reach(self, kind_name: str, name: str, settings: bytes) -> Origin:
        """Return the origin, made if there is none.

        Raises:
            UsageError: if the kind is not installed, the origin cannot be read, or the settings are wrong.
        """
        origin = self._origins.get((kind_name, name))
        if origin is not None:
            if origin.settings is not None and origin.settings != settings:
                raise UsageError("these settings (passwords, TLS) do not match this origin")
            return origin
        kind = self._kinds.get(kind_name)
        if isinstance(kind, DatagramKind):
            origin = DatagramOrigin(self._loop, self._outcomes, kind, name, self._owed_ports)
        elif isinstance(kind, StreamKind):
            slots = self._slots.setdefault(name, Slots())
            origin = StreamOrigin(
                self._loop, self._outcomes, self._resolver, kind, name, settings, slots, self._free_fd
            )
            if name in self._grants:
                origin.grant(*self._grants[name])
        else:
            raise UsageError(f"this worker has no kind {kind_name!r}", origin=name)
        self._origins[kind_name, name] = origin
        return origin

    def grant(self, name: str, slots: int, policy: Policy) -> None:
        """Allow at most ``slots`` connections to origins of this name, under this policy."""
        if slots:
            self._grants[name] = (slots, policy)
        else:
            self._grants.pop(name, None)
        for origin in self._named(name):
            origin.grant(slots, policy)

    def open_no_more(self) -> None:
        """Open no connection until there are new grants: these have lapsed. Those that are open stay."""
        self._grants.clear()
        for origin in self._origins.values():
            origin.grant_open()

    def open_connections(self, name: str) -> int:
        """Return how many connections are open, or being opened, to origins of this name."""
        return self._slots[name].taken if name in self._slots else 0

    def slots(self) -> list[tuple[str, int]]:
        """Return the same for all names with any."""
        return [(name, slots.taken) for name, slots in self._slots.items() if slots.taken]

    def pins(self) -> Iterator[tuple[Pin, str, str]]:
        """Yield the pinned connections: whose, to which kind and origin."""
        for (kind, name), origin in self._origins.items():
            for pin in origin.pins:
                yield pin, kind, name

    def unpin(self, pin: Pin, reason: str) -> bool:
        """Release a session's connection; return False if it has none here."""
        return any(origin.unpin(pin, reason) for origin in self._origins.values())

    def stranded(self, name: str | None = None) -> Iterator[Request]:
        """Yield requests that wait for a connection and can have none, there or everywhere.

        Drop each before the next.
        """
        for origin in self._origins.values() if name is None else self._named(name):
            yield from origin.stranded

    def unsent(self) -> Iterator[Request]:
        """Yield requests of which nothing was sent. Drop each before the next."""
        for origin in self._origins.values():
            yield from origin.unsent()

    def counts(self) -> dict[str, list[int]]:
        """Return, by name: in flight, in use, idle, waiting, overflowed, pinned."""
        return {name: origin.counts for (_, name), origin in self._origins.items()}

    def tend(self, now_s: float) -> None:
        """Close connections that are idle or old, and forget origins of which nothing is left."""
        for key, origin in list(self._origins.items()):
            origin.tend(now_s)
            if origin.deserted:
                del self._origins[key]
        names = {name for _, name in self._origins}
        self._slots = {name: slots for name, slots in self._slots.items() if name in names}

    def close(self, reason: str) -> None:
        """Close every fd. Requests on connections are reported as lost."""
        for origin in list(self._origins.values()):
            origin.close(reason)

    def _free_fd(self) -> bool:
        """Close the connection that has been idle for longest, or an owed port; return False if there is
        neither."""
        idle = [one for origin in self._origins.values() for one in origin.idle]
        if idle:
            min(idle, key=lambda one: one.since_s).close("another origin needs its file descriptor")
        return bool(idle) or self._owed_ports.give_way()

    def _named(self, name: str) -> Iterator[Origin]:
        return (origin for (_, known), origin in self._origins.items() if known == name)
