"""Where a request goes: the route that it shares with others, and the request as its kind sees it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from reqpool_contract import wire
from reqpool_contract.errors import UsageError

if TYPE_CHECKING:
    from reqpool_contract.errors import RequestFacts


class RoutedKind(Protocol):
    """What the pool asks of a request's kind; see :class:`.Kind`."""

    @property
    def name(self) -> str: ...

    def decode(self, data: bytes, request: Asked) -> Any: ...

    def follow(self, data: bytes, request: Asked) -> Followed: ...


_IDEMPOTENT = int(wire.Flag.IDEMPOTENT)
_OPENS = int(wire.Flag.OPENS)


class Route:
    """What the requests of one group share, apart from timeout and priority.

    A kind makes one route per target and keeps it: requests are grouped by the identity of their route, so
    a new route for each request would put each request into a separate group.

    Attributes:
        kind: the kind.
        origins: upstreams to try in turn, 1 to 8, e.g. ``("dns://127.0.0.1:53",)``.
        idempotent: whether such a request may run more than once.
        settings: what the worker half needs to open a connection, above all secrets; empty if it needs
            nothing. Not part of ``origins``, which are public; see :mod:`reqpool_contract.origin_names`.
        pin: number of the pinned connection that the requests go to, or None.
        opens: whether this is the first request of its pin, for which a connection is reserved.
        kind_name: of the kind, as it was checked.
        flags: ``idempotent`` and ``opens`` as they are sent.
    """

    __slots__ = ("flags", "idempotent", "kind", "kind_name", "opens", "origins", "pin", "settings")

    def __init__(
        self,
        kind: RoutedKind,
        origins: tuple[str, ...],
        idempotent: bool,
        settings: bytes = b"",
        pin: int | None = None,
        opens: bool = False,
    ) -> None:
        """Check everything that the broker checks.

        Raises:
            UsageError: an argument exceeds the limits of docs/protocol.md#limits or has the wrong type.
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


def _check(kind: RoutedKind, origins: tuple[str, ...], settings: bytes, pin: int | None) -> None:
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
    """A finished request, as its kind sees it when it decodes the answer.

    Attributes:
        note: what :meth:`.Kind.encode` returned with the payload.
        trail: the steps of :meth:`.Kind.follow`, one for each call; usually empty.
        elapsed_s: seconds from submission to the end.
        route: as submitted, with the caller's ``idempotent=`` applied.
        facts: the details that errors carry. They are filled in for errors that :meth:`.Kind.decode`
            raises; a value that holds errors, or raises one later, calls ``facts.fill_in(error)`` itself.
    """

    note: Any
    route: Route
    trail: tuple[Any, ...]

    @property
    def elapsed_s(self) -> float: ...

    @property
    def facts(self) -> RequestFacts: ...


class Followed(NamedTuple):
    """The next of several requests that share one future and one timeout.

    Attributes:
        route, payload, note: as :meth:`.Kind.encode` returns them.
        step: appended to the future's ``trail``.
    """

    route: Route
    payload: bytes
    note: Any
    step: Any


def with_idempotence(route: Route, idempotent: bool) -> Route:
    """Return the route for the same requests, but with the caller's choice of ``idempotent``.

    Raises:
        UsageError: it is neither True nor False.
    """
    if type(idempotent) is not bool:
        raise UsageError(f"idempotent={idempotent!r}: must be True, False or None")
    return route if route.idempotent is idempotent else _other_idempotence(route, idempotent)


@lru_cache(4096)
def _other_idempotence(route: Route, idempotent: bool) -> Route:
    return Route(route.kind, route.origins, idempotent, route.settings, route.pin, route.opens)
