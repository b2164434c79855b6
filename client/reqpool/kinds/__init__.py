"""Kinds: what a request can ask for. This is the client half of one; the worker half does the talking.

A kind is registered under one name in two entry-point groups, ``reqpool.kinds`` (an object of
:class:`Kind`, found here) and ``reqpool.worker_kinds`` (found by the workers), so "and other services"
is a package that anybody can write.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from reqpool_contract import descriptors, wire
from reqpool_contract.errors import BadResponse, UsageError
from reqpool_contract.kind_registry import registered
from reqpool_contract.masking import without_password
from reqpool_contract.origin_names import Endpoint as Endpoint

if TYPE_CHECKING:
    from reqpool_contract.errors import RequestFacts
    from reqpool_contract.tls_settings import Tls

_IDEMPOTENT = int(wire.Flag.IDEMPOTENT)
_OPENS = int(wire.Flag.OPENS)


class Route:
    """Everything requests of one group share besides timeout and priority.

    A kind makes one per target and keeps it: the stub groups requests by the route's identity, so a
    route made anew for each request would put every request into a group of its own.

    Attributes:
        kind: the kind.
        origins: upstreams to try in turn, 1 to 8, e.g. ``("dns://127.0.0.1:53",)``.
        idempotent: may such a request run more than once?
        settings: what the worker half needs to make a connection, secrets above all; empty if nothing. Kept
            out of ``origins``, which everybody may see; see :mod:`reqpool_contract.origin_names`.
        pin: number of the held connection the requests go to, or None.
        opens: the request is the first of its pin, for which a connection is taken.
        kind_name: of the kind, as it was checked.
        flags: ``idempotent`` and ``opens`` as they are sent.
    """

    __slots__ = ("flags", "idempotent", "kind", "kind_name", "opens", "origins", "pin", "settings")

    def __init__(
        self,
        kind: Kind,
        origins: tuple[str, ...],
        idempotent: bool,
        settings: bytes = b"",
        pin: int | None = None,
        opens: bool = False,
    ) -> None:
        """Check all that the broker will: it refuses what is over a bound.

        Raises:
            UsageError: if one of them is not what docs/protocol.md#limits allows.
        """
        _check(kind, origins, settings, pin)
        self.kind = kind
        self.kind_name = kind.name
        self.origins = origins
        self.idempotent = idempotent
        self.settings = settings
        self.pin = pin
        self.opens = opens
        self.flags = (_IDEMPOTENT if idempotent else 0) | (_OPENS if opens else 0)

    def __repr__(self) -> str:
        pin = "" if self.pin is None else f", pin={self.pin}"
        return f"Route({self.kind.name!r}, {self.origins!r}, idempotent={self.idempotent}{pin})"


def _check(kind: Kind, origins: tuple[str, ...], settings: bytes, pin: int | None) -> None:
    if not isinstance(kind.name, str) or not 0 < len(kind.name) <= wire.MAX_KIND_CHARS:
        raise UsageError(f"{kind.name!r:.80} is not a kind name: use 1 to {wire.MAX_KIND_CHARS} characters")
    if type(origins) is not tuple or not 0 < len(origins) <= wire.MAX_ORIGINS:
        raise UsageError(f"{origins!r:.80} is not a tuple of 1 to {wire.MAX_ORIGINS} upstreams")
    for origin in origins:
        if not isinstance(origin, str) or not origin:
            raise UsageError(f"{origin!r:.80} is not an upstream name: use a non-empty string")
        if len(origin) > wire.MAX_ORIGIN_CHARS:
            raise UsageError(
                f"the upstream {origin[:60]!r}… has {len(origin)} characters; at most "
                f"{wire.MAX_ORIGIN_CHARS} are allowed"
            )
    for text in (kind.name, *origins):
        if wire.sendable(text, len(text)) != text:
            raise UsageError(f"{text!r:.80} cannot be encoded as UTF-8")
    if type(settings) is not bytes or len(settings) > wire.MAX_SETTINGS_BYTES:
        size = f"{len(settings)} bytes" if isinstance(settings, bytes) else type(settings).__name__
        raise UsageError(f"the settings are {size}; at most {wire.MAX_SETTINGS_BYTES} bytes are allowed")
    if pin is not None and (type(pin) is not int or not 0 <= pin <= wire.MAX_NUMBER):
        raise UsageError(f"pin={pin!r:.80} is not a number from 0 to {wire.MAX_NUMBER}")


class Asked(Protocol):
    """What a kind may know of the request whose answer it decodes.

    Attributes:
        note: what :meth:`Kind.encode` returned beside the payload.
        trail: what :meth:`Kind.follow` added, one item for each time it was called; empty for most.
        elapsed_s: seconds from submission to the end.
        route: as it was submitted, the caller's ``idempotent=`` included.
        facts: what errors say of it. What :meth:`Kind.decode` raises is filled in from it; a value that holds
            errors, or may raise one later, does that itself: ``facts.told_by(error)``.
    """

    note: Any
    route: Route
    trail: tuple[Any, ...]

    @property
    def elapsed_s(self) -> float: ...

    @property
    def facts(self) -> RequestFacts: ...


class Followed(NamedTuple):
    """The next request of one that takes several, all under one future and one timeout.

    Attributes:
        route, payload, note: as :meth:`Kind.encode` returns them.
        step: is appended to the future's ``trail``.
    """

    route: Route
    payload: bytes
    note: Any
    step: Any


class Kind(ABC):
    """Client half of a kind: checks and encodes on the caller's thread, decodes on first look.

    Objects are shared by all threads and pools of a process; the methods may be called from any
    thread, and must not block.

    Attributes:
        name: as registered.
        schemes: schemes of the URLs that name its upstreams, empty if it takes addresses; needed for
            upstreams in ``reqpool.toml``.
        connectionless: what it has at an upstream is requests, not connections; so it is requests that the
            upstream's limit counts.
    """

    name: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]] = ()
    connectionless: ClassVar[bool] = False

    # *args beside **options: so a type checker lets a subclass name options of its own (typing spec, "...").
    @abstractmethod
    def encode(self, target: Any, payload: Any, *args: Any, **options: Any) -> tuple[Route, bytes, Any]:
        """Check a request and encode it.

        Args:
            target: which upstream; what it looks like is the kind's affair.
            payload: what to ask.
            **options: the kind's own options; an unknown one is a TypeError.

        Returns:
            The (kept) route, the payload for the worker half, and a note: whatever :meth:`decode` and
            :meth:`follow` want to know of the request, None for nothing. It stays in this process.

        Raises:
            UsageError: if anything about it is wrong; the text names it and the way out.
        """

    @abstractmethod
    def decode(self, data: bytes, request: Asked) -> Any:
        """Make the value of ``future.result()`` from the worker half's raw answer.

        Called when somebody first looks, by each of several threads if they look at the same time: all get
        what the first of them makes.

        Raises:
            PoolError: what ``result()`` shall raise: BadResponse if the answer cannot be read, or the
                upstream's own error, if the answer is one.
        """

    def follow(self, data: bytes, request: Asked) -> Followed:
        """Make the next request where the worker half answered with :attr:`Code.AGAIN`: a redirect, say.

        Called on the pool's I/O thread; the future stays the same, and so does its deadline.

        Raises:
            PoolError: what the request shall end with instead.
        """
        raise BadResponse(f"kind {self.name!r} has no follow-up requests")

    def endpoint(self, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        """Read a URL of one of :attr:`schemes`, as it stands in ``reqpool.toml``.

        Args:
            url: with or without user and password.
            password: instead of one in the URL; for http a bearer token if the URL names no user.
            tls: None for the kind's default.

        Raises:
            UsageError: if it is wrong; the text names what.
        """
        raise UsageError(f"kind {self.name!r} does not support URLs")


def with_idempotence(route: Route, idempotent: bool) -> Route:
    """Return the route of the same requests with the caller's word on whether they may run more than once.

    Raises:
        UsageError: if it is neither True nor False.
    """
    if type(idempotent) is not bool:
        raise UsageError(f"idempotent={idempotent!r}: must be True, False or None")
    return route if route.idempotent is idempotent else _other_idempotence(route, idempotent)


@lru_cache(4096)
def _other_idempotence(route: Route, idempotent: bool) -> Route:
    return Route(route.kind, route.origins, idempotent, route.settings, route.pin, route.opens)


_found: dict[str, Kind] = {}


def find(name: str) -> Kind:
    """Return the kind registered as ``name``, importing its package on first use.

    Raises:
        UsageError: if no installed package registers that name.
        Overloaded: if the process is short of file descriptors.
    """
    kind = _found.get(name)
    if kind is None:
        with descriptors.told():
            # Packages remember for good what they could not import for want of one (pymysql: ssl).
            descriptors.check_spare()
            kind = _found[name] = _registered(name).load()
    return kind


def _registered(name: str) -> EntryPoint:
    found = entry_points(group="reqpool.kinds")
    if name not in found.names:
        found = registered("reqpool.kinds")
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none (is reqpool installed?)"
        raise UsageError(f"unknown kind {without_password(name)!r}; installed kinds: {known}")
    return found[name]
