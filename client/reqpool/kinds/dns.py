"""Client half of kind ``dns``: a question to a name server. Its answers are in ``dns_answer``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from time import monotonic
from typing import ClassVar

from reqpool_contract import wire
from reqpool_contract.errors import UsageError
from reqpool_contract.name_servers import parse as name_servers
from reqpool_contract.origin_names import Endpoint
from reqpool_contract.payloads.dns_answer import DnsAnswer
from reqpool_contract.payloads.dns_query import query
from reqpool_contract.tls_settings import Tls
from reqpool_contract.watched_file import WatchedFile

from .address_target import address_endpoint, target_origin
from .kind import Kind
from .route import Asked, Route


class DnsKind(Kind):
    """Client half of ``dns``. The payload is a complete query with id 0."""

    name: ClassVar[str] = "dns"
    schemes: ClassVar[tuple[str, ...]] = ("dns",)
    connectionless: ClassVar[bool] = True

    def __init__(self, resolv_conf: str = "/etc/resolv.conf") -> None:
        self._servers = WatchedFile(resolv_conf, name_servers)

    def encode(
        self, target: str | Sequence[str] | None, payload: str, *, rtype: str | int = "A"
    ) -> tuple[Route, bytes, None]:
        """Check a question and encode it. Idempotent.

        Args:
            target: the name server: ``"1.2.3.4"``, ``"1.2.3.4:53"``, ``"::1"``, ``"[::1]:5300"``, or a
                name from ``reqpool.toml``; or a list or tuple of 1 to 8 of these, tried in turn until one
                answers anything but FORMERR, SERVFAIL, NOTIMP, REFUSED or a referral; None for those of
                ``/etc/resolv.conf``.
            payload: the name, always absolute, with or without the final dot. It may have any ASCII
                character and zone-file escapes (``\\.``, ``\\046``; RFC 1035 §5.1). Other characters are
                encoded as browsers do (UTS 46), and cannot be combined with escapes. ``"."`` is the root.
            rtype: record type by its IANA name (in any case; ``"TYPE65"`` too, RFC 3597) or number.

        Raises:
            UsageError: an argument is wrong; the text says which, and what would be right.
        """
        try:
            if target is None:
                route = _route(self._servers.get(monotonic()))
            elif type(target) is list:
                route = _route(tuple(target))
            else:
                route = _route(target)
            return route, query(payload, rtype), None
        except TypeError as error:  # from lru_cache: a value cannot be hashed, so it is neither str nor int
            types = ", ".join(type(one).__name__ for one in (target, payload, rtype))
            text = f"a DNS question must be (server, name, rtype) as strings, not {types}"
            raise UsageError(text) from error

    def decode(self, data: bytes, request: Asked) -> DnsAnswer:
        """Wrap an answer; it is parsed when it is read.

        Raises:
            BadResponse: it does not even have the header of a DNS answer.
        """
        return DnsAnswer(data)

    def endpoint(self, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        """Read a URL like ``dns://127.0.0.1:53``; see :meth:`Kind.endpoint`."""
        return address_endpoint(self.name, url, 53, password, tls)


@lru_cache(maxsize=1024)
def _route(target: str | tuple[str, ...]) -> Route:
    servers = target if type(target) is tuple else (target,)
    if not 0 < len(servers) <= wire.MAX_ORIGINS:
        raise UsageError(f"{len(servers)} name servers; give 1 to {wire.MAX_ORIGINS}")
    return Route(KIND, tuple(target_origin("dns", server, 53) for server in servers), True)


KIND = DnsKind()
