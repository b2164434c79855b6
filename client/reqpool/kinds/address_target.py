"""Targets of kinds whose upstreams are given as host and port, not as a URL."""

from __future__ import annotations

from reqpool_contract.address import canonical_address
from reqpool_contract.errors import UsageError
from reqpool_contract.masking import without_password
from reqpool_contract.origin_names import Endpoint, named
from reqpool_contract.tls_settings import Tls


def target_origin(
    scheme: str, target: object, default_port: int | None = None, *, names: bool = False
) -> str:
    """Return the origin for a target that is an address or the name of an upstream in ``reqpool.toml``.

    Args:
        scheme: the kind's scheme, e.g. ``"udp"``.
        target: an address, as for :func:`canonical_address`, or a name. Names with a dot are host names.
        default_port: as for :func:`canonical_address`.
        names: as for :func:`canonical_address`.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(target, str) and "." not in target and target.lower() != "localhost":
        name = named(target)
        if name is not None:
            return name
    return f"{scheme}://{canonical_address(target, default_port, names=names)}"


def address_endpoint(
    scheme: str,
    url: str,
    default_port: int | None,
    password: str | None,
    tls: Tls | None,
    *,
    names: bool = False,
) -> Endpoint:
    """Read a URL of only a scheme and an address, as written in ``reqpool.toml``.

    Raises:
        UsageError: the URL has other parts, or a password or TLS is given.
    """
    if password is not None or tls is not None:
        raise UsageError(f"{scheme}:// does not support {'passwords' if tls is None else 'TLS'}")
    found, separator, address = url.partition("://")
    if not separator or found.lower() != scheme:
        raise UsageError(f"{without_password(url)!r} is not a {scheme}:// URL")
    if "@" in address:
        raise UsageError(f"{without_password(url)!r}: {scheme}:// URLs cannot have a user name or a password")
    return Endpoint(
        f"{scheme}://{canonical_address(address.removesuffix('/'), default_port, names=names)}", b""
    )
