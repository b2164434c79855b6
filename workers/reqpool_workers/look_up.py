"""The look-up of one host name. Sans-IO.

This file decides which server to ask for what, and when to give up; :mod:`~reqpool_workers.resolver` asks.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple

from reqpool_contract.errors import BadResponse
from reqpool_contract.payloads.dns_answer import DnsAnswer

from .protocols.dns_messages import lame
from .resolv_conf import ResolvConf

RTYPES = ("A", "AAAA")
"""Types that are asked for, together."""
SHORTEST_TTL_S = 1.0
LONGEST_TTL_S = 300.0
LONGEST_NEGATIVE_TTL_S = 5.0
"""Short, since a missing name may be one that is being set up."""
FAILURE_TTL_S = 1.0
"""How long a failed look-up is not repeated: long enough that the requests of a burst share it."""
MAX_ALIASES = 16

_NOERROR, _NXDOMAIN = 0, 3


class Step(NamedTuple):
    """Ask ``server`` for both types of ``name``, and wait for ``span_s`` seconds."""

    server: str
    name: str
    span_s: float


class Found(NamedTuple):
    """A name's addresses, IPv4 and IPv6, and for how many seconds they are valid."""

    addresses: tuple[str, ...]
    ttl_s: float


class LookupFailure(NamedTuple):
    """Why there are no addresses. ``known``: a server said so; otherwise none could be asked."""

    text: str
    ttl_s: float
    known: bool


Outcome = Found | LookupFailure


class _Part(NamedTuple):
    """One server's answer for one type: addresses, or that there are none, or why that is not known."""

    addresses: tuple[str, ...] = ()
    ttl_s: float = LONGEST_TTL_S
    missing: bool = False
    failure: str = ""


class LookUp:
    """One host name's way through names, servers and rounds, as resolv.conf(5) specifies.

    Args:
        host: the name.
        conf: the parsed file.
        servers: those of ``conf``, in the order to ask them.

    Attributes:
        silent: servers that were asked and did not answer.
    """

    def __init__(self, host: str, conf: ResolvConf, servers: Sequence[str]) -> None:
        self.silent: set[str] = set()
        self._host = host
        self._conf = conf
        self._servers = servers
        self._parts: dict[str, _Part] = {}
        self._failures: dict[str, str] = {}
        self._name = ""
        self._server = ""
        self._walk = self._steps()

    def advance(self) -> Step | Outcome:
        """Return what to do next: call it first, and when the current step is settled or its time is up."""
        try:
            return next(self._walk)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome

    def take(self, rtype: str, answer: bytes | str) -> None:
        """Take the current server's answer for one type, or the reason why there is none."""
        if isinstance(answer, str):
            self._parts[rtype] = _Part(failure=answer)
            return
        self.silent.discard(self._server)
        try:
            self._parts[rtype] = _read(answer, self._name, rtype)
        except BadResponse as error:
            self._parts[rtype] = _Part(failure=error.text)

    @property
    def settled(self) -> bool:
        """Whether both answers of the current step have arrived."""
        return len(self._parts) == len(RTYPES)

    @property
    def has_addresses(self) -> bool:
        """Whether there are addresses to go on with."""
        return any(part.addresses for part in self._parts.values())

    def _steps(self) -> Generator[Step, None, Outcome]:
        missing: LookupFailure | None = None
        for name in self._conf.candidates(self._host):
            self._name = name
            known = yield from self._ask(name)
            if isinstance(known, Found):
                return known
            if known is None and self.silent.issuperset(self._servers):
                break  # no server is there: the other names need not be tried
            missing = missing or known
        if missing is not None and not self._failures:
            return missing
        return LookupFailure(self._why(), FAILURE_TTL_S, known=False)

    def _ask(self, name: str) -> Generator[Step, None, Outcome | None]:
        """Ask for one name until a server knows; return None if none does."""
        failures: dict[str, str] = {}
        for attempt in range(self._conf.attempts):
            for server in self._servers:
                self._parts = {}
                self._server = server
                self.silent.add(server)
                yield Step(server, name, self._conf.timeout_s * 2**attempt)
                known = self._judge()
                if not isinstance(known, str):
                    return known
                failures[server] = known
        self._failures |= failures
        return None

    def _judge(self) -> Outcome | str:
        """Return the outcome of a step; a str says why there is none."""
        parts = self._parts
        addresses = tuple(address for part in parts.values() for address in part.addresses)
        complete = self.settled and not any(part.failure for part in parts.values())
        if addresses:
            longest_s = LONGEST_TTL_S if complete else LONGEST_NEGATIVE_TTL_S
            return Found(addresses, _bounded(min(part.ttl_s for part in parts.values()), longest_s))
        missing = [part for part in parts.values() if part.missing]
        if missing:
            # NXDOMAIN is about the name, so it holds for the other type, too (RFC 8020 §2).
            return self._missing(f"no such host: {self._host}", missing)
        if complete:
            return self._missing(f"{self._host} has no address", parts.values())
        failures = [part.failure for part in parts.values() if part.failure]
        unanswered = [rtype for rtype in RTYPES if rtype not in parts]
        if parts and unanswered:
            failures.append(f"no answer for {unanswered[0]}")
        return failures[0] if failures else ""

    def _missing(self, text: str, parts: Iterable[_Part]) -> LookupFailure:
        return LookupFailure(
            text, _bounded(min(part.ttl_s for part in parts), LONGEST_NEGATIVE_TTL_S), known=True
        )

    def _why(self) -> str:
        about = [f"{server}: {why}" if why else server for server, why in self._failures.items()]
        if self.silent.issuperset(self._failures):
            return f"{self._host} could not be looked up: no name server answers ({', '.join(about)})"
        return f"{self._host} could not be looked up ({'; '.join(about)})"


def _bounded(ttl_s: float, longest_s: float) -> float:
    return min(max(ttl_s, SHORTEST_TTL_S), longest_s)


def _read(raw: bytes, name: str, rtype: str) -> _Part:
    """Read an answer, along its chain of aliases.

    Raises:
        BadResponse: if it is malformed.
    """
    answer = DnsAnswer(raw)
    if answer.rcode_number not in (_NOERROR, _NXDOMAIN):
        return _Part(failure=answer.rcode)
    if lame(raw):
        return _Part(failure="refers to other servers")
    records = answer.records
    owner, ttl_s = name.lower(), LONGEST_TTL_S
    for _ in range(MAX_ALIASES):
        own = [record for record in records if record.name.lower() == owner]
        found = [record for record in own if record.type == rtype]
        aliases = [record for record in own if record.type == "CNAME"]
        ttl_s = min([ttl_s, *(record.ttl for record in found or aliases)])
        if found:
            return _Part(tuple(record.value for record in found), ttl_s)
        if not aliases:
            break
        owner = aliases[0].value.lower()
    # RFC 2308 §5: how long a negative answer may be cached.
    for record in answer.authority:
        if record.type == "SOA":
            ttl_s = min(ttl_s, record.ttl, record.value[6])
    return _Part(ttl_s=ttl_s, missing=answer.rcode_number == _NXDOMAIN)


# --- the order of addresses -----------------------------------------------------------------------


def in_order(addresses: Iterable[str], *, ipv6_first: bool) -> list[str]:
    """Return addresses in the order to try them: families alternate, each in its own order (RFC 8305 §4)."""
    distinct = list(dict.fromkeys(addresses))
    first = [address for address in distinct if (":" in address) == ipv6_first]
    second = [address for address in distinct if (":" in address) != ipv6_first]
    ordered = [address for pair in zip(first, second, strict=False) for address in pair]
    return ordered + first[len(second) :] + second[len(first) :]
