"""Host names of upstreams to addresses, without ever blocking the loop.

``getaddrinfo`` blocks for as long as a name server is silent; here questions are sent like those of the kind
``dns``: by a :class:`~reqpool_workers.datagram_sender.DatagramSender` for each name server, which has random
ids and ports, sends again, and asks over TCP for what was cut short. Two small local files are read when they
have changed, which is checked once a second at most.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import ip_address

from reqpool_contract.errors import Code, ConnectFailed, PoolError, UsageError
from reqpool_contract.host_names import canonical_host
from reqpool_contract.watched_file import WatchedFile

from . import hosts as hosts_file
from . import resolv_conf as resolv_conf_file
from .datagram_sender import DatagramSender
from .event_loop import EventLoop
from .lease import Request, WorkerLease
from .look_up import RTYPES, Found, LookUp, LookupFailure, Outcome, Step, in_order
from .name_cache import NameCache
from .name_query import NameQuery, end
from .owed_ports import OwedPorts
from .protocols.dns import WORKER_KIND
from .resolv_conf import ResolvConf

Done = Callable[[list[str] | PoolError], None]
"""Called on the loop's thread with the addresses in the order to try them, or with the error."""

RESOLVE_DELAY_S = 0.05
"""How much longer the other address family has once one is known (RFC 8305 §3)."""
STALE_AFTER_S = 1.8
"""How long servers have to answer before stale addresses are used (RFC 8767 §5)."""
SILENT_S = 30.0
"""How long a server that did not answer is asked last."""
ROUTE_S = 10.0
"""How long the answer whether there is a route for IPv6 is used."""
LOOPBACK = ("127.0.0.1", "::1")

RESOLV_CONF = "/etc/resolv.conf"
HOSTS = "/etc/hosts"


class _Answers:
    """The :class:`.OutcomeSink` of questions: the resolver takes their answers in a later step of the loop.

    Not at once, since the caller is in the middle of reading a socket, or of closing it.
    """

    def __init__(self, on_news: Callable[[], None]) -> None:
        self._outcomes: list[tuple[Request, bytes | str]] = []
        self._on_news = on_news

    def take(self) -> list[tuple[Request, bytes | str]]:
        """Take the questions that have ended, each with its answer or a text that says why there is none."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def finish(self, request: Request, code: int, data: bytes) -> None:
        self._note([request], data)

    def finish_many(self, finished: Sequence[tuple[Request, int, bytes]]) -> None:
        for request, _, data in finished:
            self._note([request], data)

    def decline(self, request: Request, answer: bytes) -> None:
        self._note([request], answer)

    def conclude(
        self, request: Request, code: Code, text: str, *, phase: str | None = None, sent: bool | None = None
    ) -> None:
        self._note([request], text)

    def fail(self, requests: list[Request], code: Code, text: str, *, phase: str, sent: bool) -> None:
        self._note(requests, text)

    def give_back(self, requests: list[Request]) -> None:
        self._note(requests, "this worker has no file descriptor left for it (RLIMIT_NOFILE)")

    def count_ignored(self) -> None:
        """Do nothing: these are not counted."""

    def count_resent(self) -> None:
        """Do nothing: these are not counted."""

    def _note(self, requests: list[Request], outcome: bytes | str) -> None:
        if not self._outcomes and requests:
            self._on_news()
        for request in requests:
            end(request)
            self._outcomes.append((request, outcome))


class _NameServer(DatagramSender):
    """Where questions go."""

    def fail(self, requests: list[Request], error: OSError, *, sent: bool) -> None:
        """Report questions of a socket that reported an error; the resolver's text names the server."""
        text = (error.strerror or str(error)).lower()
        self.outcomes.fail(requests, Code.CONNECT_FAILED, text, phase="connect", sent=sent)


class _Running:
    """A look-up in progress, and the callers that wait for it."""

    def __init__(self, host: str, look_up: LookUp, done: Done) -> None:
        self.host = host
        self.look_up = look_up
        self.waiting = [done]
        self.query: NameQuery | None = None
        self.stale: Found | None = None
        """What callers get meanwhile."""


class Resolver:
    """Looks up host names. Everything belongs to the loop's thread.

    Args:
        loop: that of this thread.
        owed_ports: are closed if a descriptor is needed; none is added, since answers of name servers have an
            id.
        resolv_conf: path of the file that names the servers; None: ``$REQPOOL_RESOLV_CONF``, or the system's.
        hosts: path of the hosts file; None: ``$REQPOOL_HOSTS``, or the system's.
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
        self._known = NameCache()
        self._known_by: ResolvConf | None = None
        self._running: dict[str, _Running] = {}
        self._answers = _Answers(lambda: loop.wake(self._take_answers))
        self._asked: dict[WorkerLease, _Running] = {}
        self._servers: dict[str, _NameServer] = {}
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
                name of the hosts file, one that was looked up recently), otherwise later. The error is a
                ConnectFailed that says what failed, or a UsageError if it is not a name.
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
        """Close every fd. Callers of look-ups in progress get no answer."""
        self._running.clear()
        self._asked.clear()
        for server in self._servers.values():
            server.close(reason)
        self._servers.clear()

    def _local(self, name: str) -> list[str] | None:
        """Return the addresses that are known without asking a server; None if there are none."""
        try:
            return [str(ip_address(name))]
        except ValueError:
            pass
        found = self._hosts.get(self._loop.now_s).get(name)
        if name == "localhost" or name.endswith(".localhost"):
            # Not what name servers say (RFC 6761 §6.3); the file may say which of the two.
            found = found or LOOPBACK
        return None if found is None else self._ordered(found)

    # --- one look-up -------------------------------------------------------------------------------

    def _begin(self, host: str, conf: ResolvConf, done: Done) -> None:
        now_s = self._loop.now_s
        running = self._running[host] = _Running(host, LookUp(host, conf, self._in_turn(conf)), done)
        if self._known.stale(host, now_s) is not None:
            self._loop.at(now_s + STALE_AFTER_S, partial(self._use_stale, running))
        self._advance(running)

    def _in_turn(self, conf: ResolvConf) -> list[str]:
        first = self._turn % len(conf.servers) if conf.rotate else 0
        self._turn += 1
        servers = [*conf.servers[first:], *conf.servers[:first]]
        return sorted(servers, key=lambda server: self._silent.get(server, 0.0) > self._loop.now_s)

    def _advance(self, running: _Running) -> None:
        """Take the next step, since the current one is over."""
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
        """Begin a step; return False if it is over already."""
        now_s = self._loop.now_s
        try:
            server = self._server(step.server)
        except UsageError:  # a link-local address on an interface that is not there
            for rtype in RTYPES:
                running.look_up.take(rtype, "not an address of this machine's networks")
            return False
        running.query = NameQuery(step, server, now_s)
        self._asked[running.query.lease] = running
        self._loop.at(running.query.send(now_s), partial(self._watch, running, running.query))
        return True

    def _watch(self, running: _Running, query: NameQuery, now_s: float) -> float | None:
        """Send again, or take the next step when this one's time is up: the timer of a step."""
        if running.query is not query:
            return None
        if now_s >= query.lease.deadline_s:
            self._advance(running)
            return None
        return query.resend(now_s)

    def _take_answers(self) -> None:
        for request, outcome in self._answers.take():
            running = self._asked.get(request.lease)
            query = None if running is None else running.query
            if running is None or query is None or query.lease is not request.lease:
                continue
            running.look_up.take(RTYPES[request.seq], outcome)
            if running.look_up.settled:
                self._advance(running)
            elif running.look_up.has_addresses and not query.hurried:
                query.hurried = True
                self._loop.at(self._loop.now_s + RESOLVE_DELAY_S, partial(self._hurry, running, query))

    def _hurry(self, running: _Running, query: NameQuery, _now_s: float) -> None:
        """Go on with the addresses of one family: the other's answer has not come."""
        if running.query is query:
            self._advance(running)

    def _use_stale(self, running: _Running, now_s: float) -> None:
        """Give callers stale addresses, since the servers are slow; the look-up goes on."""
        if self._running.get(running.host) is not running:
            return
        running.stale = self._known.stale(running.host, now_s)
        if running.stale is not None:
            waiting, running.waiting = running.waiting, []
            self._tell(waiting, running.stale)

    def _abandon(self, running: _Running) -> None:
        """Stop waiting for what has not been answered."""
        query, running.query = running.query, None
        if query is not None:
            del self._asked[query.lease]
            query.drop()

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

    def _server(self, address: str) -> _NameServer:
        server = self._servers.get(address)
        if server is None:
            name = f"dns://{address}"
            server = _NameServer(self._loop, self._answers, WORKER_KIND, name, self._owed_ports)
            self._servers[address] = server
        return server

    def tend(self, now_s: float) -> None:
        """Close idle sockets, and forget servers that have none."""
        for address, server in list(self._servers.items()):
            server.tend(now_s)
            if server.deserted:
                del self._servers[address]


def has_ipv6_route() -> bool:
    """Return whether this machine knows where to send a packet to the IPv6 internet.

    Connecting a datagram socket looks the route up and sends nothing (udp(7)).
    """
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:dc3::35", 53))  # m.root-servers.net
    except OSError:
        return False
    return True
