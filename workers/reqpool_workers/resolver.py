"""Host names of upstreams to addresses, without ever blocking the loop.

``getaddrinfo`` blocks for as long as a name server is silent; here the questions go out as those of the kind
``dns`` do: over a :class:`~reqpool_workers.datagrams.DatagramOrigin` for each name server, which brings
random ids and ports, sending again, and TCP for what was cut short. Files are read, two small local ones,
when they have changed, which is looked at once a second at most.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import ip_address

from reqpool_contract.errors import Code, ConnectFailed, PoolError, UsageError
from reqpool_contract.host_names import canonical_host
from reqpool_contract.payloads.dns_query import query
from reqpool_contract.watched_file import WatchedFile
from reqpool_contract.wire import LeaseGroup

from . import hosts as hosts_file
from . import resolv_conf as resolv_conf_file
from .datagrams import DatagramOrigin
from .event_loop import EventLoop
from .lease import Request, WorkerLease
from .lease_outcomes import LeaseOutcomes
from .look_up import RTYPES, Found, Known, LookUp, LookupFailure, Outcome, Step, has_ipv6_route, in_order
from .owed_ports import OwedPorts
from .protocols.dns import WORKER_KIND
from .resolv_conf import ResolvConf
from .worker_ledger import WorkerLedger

Done = Callable[[list[str] | PoolError], None]
"""Called on the loop's thread: addresses in the order to try them, or what went wrong."""

RESOLVE_DELAY_S = 0.05
"""How much longer the other address family has once one is known (RFC 8305 §3)."""
STALE_AFTER_S = 1.8
"""How long servers have to answer before stale addresses are used (RFC 8767 §5)."""
SILENT_S = 30.0
"""How long a server that did not answer is asked last."""
ROUTE_S = 10.0
"""How long it is believed that there is a route for IPv6, or none."""
TEND_S = 1.0
LOOPBACK = ("127.0.0.1", "::1")

RESOLV_CONF = "/etc/resolv.conf"
HOSTS = "/etc/hosts"


class _Questions(LeaseOutcomes):
    """Outcomes that are not reported: they are taken up by the resolver, in a later step of the loop.

    Not at once, since who reports them is in the middle of reading a socket, or of closing it.
    """

    def __init__(self, on_news: Callable[[], None]) -> None:
        super().__init__(WorkerLedger())
        self.outcomes: list[tuple[Request, bytes | str]] = []
        self._on_news = on_news

    def finish(self, request: Request, code: int, data: bytes) -> None:
        self._note([request], data)

    def conclude(
        self, request: Request, code: Code, text: str, *, phase: str | None = None, sent: bool | None = None
    ) -> None:
        self._note([request], text)

    def fail(self, requests: list[Request], code: Code, text: str, *, phase: str, sent: bool) -> None:
        self._note(requests, text.removeprefix("cannot reach the upstream: ").lower())

    def give_back(self, requests: list[Request]) -> None:
        self._note(requests, "this worker has no file descriptor left for it (RLIMIT_NOFILE)")

    def _note(self, requests: list[Request], outcome: bytes | str) -> None:
        if not self.outcomes and requests:
            self._on_news()
        self.outcomes.extend((request, outcome) for request in requests)
        for request in requests:
            self.forget(request)


class _Running:
    """A look-up under way, and who waits for it."""

    def __init__(self, host: str, look_up: LookUp, done: Done) -> None:
        self.host = host
        self.look_up = look_up
        self.waiting = [done]
        self.lease: WorkerLease | None = None
        self.hurried = False
        self.stale: Found | None = None
        """What those who ask get meanwhile."""


class Resolver:
    """Looks up host names. Everything belongs to the loop's thread.

    Args:
        loop: that of this thread.
        owed_ports: give way where a descriptor is wanted; none is added, since answers of name servers have
            an id.
        resolv_conf: path of the file that names the servers; None: ``$REQPOOL_RESOLV_CONF``, or that of the
            system.
        hosts: path of the file with names of its own; None: ``$REQPOOL_HOSTS``, or that of the system.
    """

    def __init__(
        self,
        loop: EventLoop,
        owed_ports: OwedPorts,
        *,
        resolv_conf: str | None = None,
        hosts: str | None = None,
    ) -> None:
        self._loop = loop
        self._conf = WatchedFile(
            resolv_conf or os.environ.get("REQPOOL_RESOLV_CONF") or RESOLV_CONF, resolv_conf_file.parse
        )
        self._hosts = WatchedFile(hosts or os.environ.get("REQPOOL_HOSTS") or HOSTS, hosts_file.parse)
        self._known = Known()
        self._known_by: ResolvConf | None = None
        self._running: dict[str, _Running] = {}
        self._questions = _Questions(lambda: loop.wake(self._take_answers))
        self._asked: dict[Request, tuple[_Running, str]] = {}
        self._asked_count = 0
        self._origins: dict[str, DatagramOrigin] = {}
        self._owed_ports = owed_ports
        self._silent: dict[str, float] = {}
        self._turn = 0
        self._ipv6 = False
        self._ipv6_look_s = float("-inf")

    def look_up(self, host: str, done: Done) -> None:
        """Find a host's addresses.

        Args:
            host: a name or an address; a name with a final dot is not completed by search domains.
            done: is called once: before this returns if the answer is known (an address, ``localhost``, a
                name of the hosts file, one that was looked up not long ago), else later. The error is a
                ConnectFailed that says what failed, or a UsageError for what is no name.
        """
        try:
            name = canonical_host(host)
        except UsageError as error:
            done(error)
            return
        local = self._local(name.removesuffix("."))
        if local is not None:
            done(local)
            return
        now_s = self._loop.now_s
        conf = self._conf.get(now_s)
        if conf is not self._known_by:
            self._known.clear()
            self._known_by = conf
        known = self._known.get(name, now_s)
        running = self._running.get(name)
        if known is None and running is not None:
            known = running.stale
        if known is not None:
            self._tell([done], known)
        elif running is not None:
            running.waiting.append(done)
        else:
            self._begin(name, conf, done)

    def close(self, reason: str) -> None:
        """Close every fd. Look-ups under way are never done."""
        self._running.clear()
        self._asked.clear()
        for origin in self._origins.values():
            origin.close(reason)
        self._origins.clear()

    def _local(self, name: str) -> list[str] | None:
        """What can be said without asking anybody; None if nothing."""
        try:
            return [str(ip_address(name))]
        except ValueError:
            pass
        found = self._hosts.get(self._loop.now_s).get(name)
        if name == "localhost" or name.endswith(".localhost"):
            # Whatever name servers say (RFC 6761 §6.3); the file may say which of them.
            found = found or LOOPBACK
        return None if found is None else self._ordered(found)

    # --- one look-up -------------------------------------------------------------------------------

    def _begin(self, host: str, conf: ResolvConf, done: Done) -> None:
        now_s = self._loop.now_s
        running = self._running[host] = _Running(host, LookUp(host, conf, self._servers(conf)), done)
        if self._known.stale(host, now_s) is not None:
            self._loop.at(now_s + STALE_AFTER_S, partial(self._use_stale, running))
        self._advance(running)

    def _servers(self, conf: ResolvConf) -> list[str]:
        first = self._turn % len(conf.servers) if conf.rotate else 0
        self._turn += 1
        servers = [*conf.servers[first:], *conf.servers[:first]]
        return sorted(servers, key=lambda server: self._silent.get(server, 0.0) > self._loop.now_s)

    def _advance(self, running: _Running) -> None:
        """The current step is over: take the next."""
        self._abandon(running)
        step = running.look_up.advance()
        while isinstance(step, Step):
            if self._ask(running, step):
                return
            step = running.look_up.advance()
        now_s = self._loop.now_s
        self._silent = {server: until_s for server, until_s in self._silent.items() if until_s > now_s}
        self._silent.update(dict.fromkeys(running.look_up.silent, now_s + SILENT_S))
        del self._running[running.host]
        self._tell(running.waiting, self._known.put(running.host, step, now_s))

    def _ask(self, running: _Running, step: Step) -> bool:
        """Begin a step; False if it is over already."""
        now_s = self._loop.now_s
        try:
            origin = self._origin(step.server)
        except UsageError:  # a link-local address on an interface that is not there
            for rtype in RTYPES:
                running.look_up.take(rtype, "not an address of this machine's networks")
            return False
        first = self._asked_count
        self._asked_count += len(RTYPES)
        group = LeaseGroup(
            session=b"",
            kind=WORKER_KIND.name,
            origin=origin.name,
            span_ms=round(step.span_s * 1000),
            flags=0,
            attempt=1,
            pin=None,
            trace=None,
            seqs=tuple(range(first, self._asked_count)),
            payloads=tuple(query(step.name, rtype) for rtype in RTYPES),
        )
        lease = running.lease = self._questions.ledger.admit(group, now_s)
        lease.upstream = origin
        for request, rtype in zip(lease.requests, RTYPES, strict=True):
            self._asked[request] = (running, rtype)
        running.hurried = False
        origin.submit(lease, now_s)
        self._loop.at(min(lease.resend_s, lease.deadline_s), partial(self._watch, running, lease))
        return True

    def _watch(self, running: _Running, lease: WorkerLease, now_s: float) -> float | None:
        """A step's timer: send again, or go on when its time is up."""
        if running.lease is not lease:
            return None
        if now_s >= lease.deadline_s:
            self._advance(running)
            return None
        again_s = lease.upstream.resend(lease, now_s) if lease.upstream is not None else None
        return lease.deadline_s if again_s is None else min(again_s, lease.deadline_s)

    def _take_answers(self) -> None:
        outcomes, self._questions.outcomes = self._questions.outcomes, []
        for request, outcome in outcomes:
            running, rtype = self._asked.pop(request, (None, ""))
            if running is None or running.lease is not request.lease:
                continue
            running.look_up.take(rtype, outcome)
            if running.look_up.settled:
                self._advance(running)
            elif running.look_up.has_addresses and not running.hurried:
                running.hurried = True
                self._loop.at(
                    self._loop.now_s + RESOLVE_DELAY_S, partial(self._hurry, running, request.lease)
                )

    def _hurry(self, running: _Running, lease: WorkerLease, _now_s: float) -> None:
        """One family's addresses have come, the other's answer has not."""
        if running.lease is lease:
            self._advance(running)

    def _use_stale(self, running: _Running, now_s: float) -> None:
        """The servers take their time: those who wait get what was true a while ago, the look-up goes on."""
        if self._running.get(running.host) is not running:
            return
        running.stale = self._known.stale(running.host, now_s)
        if running.stale is not None:
            waiting, running.waiting = running.waiting, []
            self._tell(waiting, running.stale)

    def _abandon(self, running: _Running) -> None:
        """Stop waiting for what has not been answered."""
        lease, running.lease = running.lease, None
        if lease is None or lease.upstream is None:
            return
        for request in list(lease.unended()):
            self._asked.pop(request, None)
            if request.live:
                lease.upstream.drop(request, "timeout")
                self._questions.forget(request)

    def _tell(self, waiting: Iterable[Done], outcome: Outcome) -> None:
        for done in waiting:
            done(
                ConnectFailed(outcome.text)
                if isinstance(outcome, LookupFailure)
                else self._ordered(outcome.addresses)
            )

    def _ordered(self, addresses: Iterable[str]) -> list[str]:
        now_s = self._loop.now_s
        if now_s >= self._ipv6_look_s + ROUTE_S:
            self._ipv6_look_s = now_s
            self._ipv6 = has_ipv6_route()
        return in_order(addresses, ipv6_first=self._ipv6)

    # --- name servers ------------------------------------------------------------------------------

    def _origin(self, server: str) -> DatagramOrigin:
        origin = self._origins.get(server)
        if origin is None:
            if not self._origins:
                self._loop.at(self._loop.now_s + TEND_S, self._tend)
            origin = DatagramOrigin(
                self._loop, self._questions, WORKER_KIND, f"dns://{server}", self._owed_ports
            )
            self._origins[server] = origin
        return origin

    def _tend(self, now_s: float) -> float | None:
        """Close sockets that are idle, forget servers without one."""
        for server, origin in list(self._origins.items()):
            origin.tend(now_s)
            if origin.deserted:
                del self._origins[server]
        return now_s + TEND_S if self._origins else None
