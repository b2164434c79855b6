"""The upstreams that the broker knows by name, and what it may do to each. No I/O, no clock.

``reqpool_ops.config_file`` makes a :class:`Config` of ``reqpool.toml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from reqpool_contract.errors import UsageError
from reqpool_contract.origin_names import Endpoint, upstream_of, variants
from reqpool_contract.policy import Policy

from .client_limits import ClientLimits

MAX_KEPT = 1024
"""Origins of which it is remembered what they resolve to."""
MAX_NAMED = 20
"""How many names an error lists at most."""


@dataclass(frozen=True)
class NamedUpstream:
    """A service that is called, by its name in the configuration.

    Attributes:
        name: as in ``[upstreams.NAME]``.
        kinds: names of the kinds that its URL's scheme belongs to.
        endpoint: its origin, and the settings (secrets) a connection to it takes.
        unnamed: the same for requests that give its URL, not its name; but without its own password and
            certificate where an answer can lead a client to a URL (an HTTP redirect), for then a stranger
            could use them.
        policy: what the pool may do to it.
    """

    name: str
    kinds: tuple[str, ...]
    endpoint: Endpoint = field(repr=False)  # its settings contain the password
    unnamed: Endpoint = field(repr=False)
    policy: Policy

    @property
    def key(self) -> str:
        """What its limits are counted by: scheme, host and port."""
        return upstream_of(self.endpoint.origin)


class Config:
    """All upstreams that have a name, and the policy of those that have none. Never changes.

    Args:
        upstreams: each with a name of its own. Those with one key share one limit, so theirs must be equal.
        defaults: for upstreams that are not among them.
        clients: what each client may take.

    Attributes:
        upstreams: by name.
        defaults, clients: as given.
    """

    def __init__(
        self,
        upstreams: Iterable[NamedUpstream] = (),
        defaults: Policy | None = None,
        clients: ClientLimits | None = None,
    ) -> None:
        self.upstreams: Mapping[str, NamedUpstream] = MappingProxyType({up.name: up for up in upstreams})
        self.defaults = defaults or Policy()
        self.clients = clients or ClientLimits()
        self._by_key: dict[str, list[NamedUpstream]] = {}
        self._by_place: dict[str, list[NamedUpstream]] = {}
        for upstream in self.upstreams.values():
            self._by_key.setdefault(upstream.key, []).append(upstream)
            self._by_place.setdefault(_split(upstream.endpoint.origin)[0], []).append(upstream)
        # A lone request is a group of its own, so it is asked for once a request.
        self._kept = lru_cache(MAX_KEPT)(self._resolve)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Config):
            return NotImplemented
        return (self.upstreams, self.defaults, self.clients) == (
            other.upstreams,
            other.defaults,
            other.clients,
        )

    __hash__ = None  # type: ignore[assignment]

    def by_key(self, key: str) -> tuple[NamedUpstream, ...]:
        """Return the upstreams whose limits are counted together under a key; empty if none has a name."""
        return tuple(self._by_key.get(key, ()))

    def policy_of(self, origin: str) -> Policy:
        """Return what the pool may do to an upstream.

        Args:
            origin: a resolved origin, or a key. Of two upstreams at one server the limits are equal, and the
                rest may differ: with a key alone the rest is that of the first one.
        """
        found = self._meant(origin) or self._by_key.get(upstream_of(origin))
        return found[0].policy if found else self.defaults

    def resolve(self, kind: str, origin: str, settings: bytes) -> tuple[str, bytes]:
        """Replace what a request says of an upstream by what the configuration knows of it.

        A name (``@cache``, ``@cache?variant``) becomes the origin and settings it stands for. A URL that came
        without settings and is the URL of a named upstream gets that one's: apps need not know the password.
        If several upstreams with unequal settings have that URL, none is meant. See
        :attr:`NamedUpstream.unnamed`.

        Args:
            kind: the request's.
            origin: the request's.
            settings: the request's.

        Raises:
            UsageError: if there is no upstream of that name, or it is not of that kind; the text names those
                there are.
        """
        if settings and origin[:1] != "@":
            return origin, settings
        return self._kept(kind, origin)

    def _resolve(self, kind: str, origin: str) -> tuple[str, bytes]:
        if origin[:1] == "@":
            name, _, variant = origin[1:].partition("?")
            upstream = self.upstreams.get(name)
            if upstream is None or kind not in upstream.kinds:
                raise UsageError(self._why_not(kind, name))
            return _joined(upstream.endpoint, variant)
        endpoints = {upstream.unnamed for upstream in self._meant(origin) if kind in upstream.kinds}
        if len(endpoints) != 1:
            return origin, b""
        return _joined(endpoints.pop(), _split(origin)[1])

    def _meant(self, origin: str) -> list[NamedUpstream]:
        """Return the upstreams with this URL, their own variants (a Unix socket's database) included."""
        place, variant, _ = _split(origin)
        asked = variant.split("&")
        return [
            upstream
            for upstream in self._by_place.get(place, ())
            if all(own in asked for own in variants(upstream.endpoint.origin))
        ]

    def _why_not(self, kind: str, name: str) -> str:
        fitting = sorted(up.name for up in self.upstreams.values() if kind in up.kinds)
        listed = ", ".join(fitting[:MAX_NAMED]) + (", …" if len(fitting) > MAX_NAMED else "")
        known = f"its upstreams of kind {kind!r}: {listed}" if fitting else f"it has none of kind {kind!r}"
        upstream = self.upstreams.get(name)
        if upstream is None:
            return f"the broker's configuration has no upstream {name!r}; {known}"
        return (
            f"upstream {name!r} ({upstream.key}) is for {' and '.join(upstream.kinds)}, not {kind!r}; {known}"
        )


EMPTY = Config()
"""The configuration of a broker without ``reqpool.toml``."""


def changes(old: Config, new: Config) -> str:
    """Describe what is different, by name; empty if nothing is."""
    said = []
    for what, names in (
        ("added", new.upstreams.keys() - old.upstreams.keys()),
        ("removed", old.upstreams.keys() - new.upstreams.keys()),
        (
            "changed",
            {n for n in old.upstreams.keys() & new.upstreams.keys() if old.upstreams[n] != new.upstreams[n]},
        ),
    ):
        if names:
            said.append(f"{what}: {', '.join(sorted(names))}")
    if old.defaults != new.defaults:
        said.append("changed: the defaults")
    if old.clients != new.clients:
        said.append("changed: the limits of clients")
    return "; ".join(said)


def _split(origin: str) -> tuple[str, str, str]:
    """Split an origin into its place, its variant and its digest."""
    public, _, digest = origin.partition("#")
    place, _, variant = public.partition("?")
    return place, variant, digest


def _joined(endpoint: Endpoint, variant: str) -> tuple[str, bytes]:
    """Return an endpoint's origin and settings, with the requested variants beside its own."""
    if not variant:
        return endpoint
    place, _, digest = _split(endpoint.origin)
    joined = dict.fromkeys((*variants(endpoint.origin), *variant.split("&")))
    return f"{place}?{'&'.join(joined)}" + (f"#{digest}" if digest else ""), endpoint.settings
