"""Addresses of upstreams: one place that reads ``host:port`` and writes it in one canonical way.

One upstream must have one spelling: the pool's limits are counted per origin, and two spellings
would be two limits.
"""

from __future__ import annotations

from ipaddress import ip_address

from ..errors import UsageError
from . import Endpoint
from .origin import Tls, canonical_host, named


def canonical_address(text: object, default_port: int | None = None, *, names: bool = False) -> str:
    """Check an address and write it canonically.

    Args:
        text: ``"127.0.0.1:53"``, ``"[::1]:53"``, ``"localhost:53"``; with a default port also
            ``"127.0.0.1"``, ``"[::1]"`` and ``"::1"``.
        default_port: the port where the text names none; None if it has to name one.
        names: may the host be a name, for the workers to look up?

    Returns:
        ``"127.0.0.1:53"`` or ``"[::1]:53"``: compressed, always with a port. ``localhost`` becomes
        127.0.0.1 (RFC 6761 §6.3: it is the loopback address without asking anybody).

    Raises:
        UsageError: if it is not an address; the text names it and says how to write one.
    """
    example = '"127.0.0.1:5300" or "[::1]:5300"'
    if not isinstance(text, str):
        raise UsageError(f"an address is a string like {example}, not {type(text).__name__}: {text!r}")
    host, port_text = _split(text)
    if host == "":
        raise UsageError(f"address {text!r} has no host; write it like {example}")
    try:
        ip = ip_address("127.0.0.1" if host.lower() == "localhost" else host)
        canonical = f"[{ip}]" if ip.version == 6 else str(ip)
    except ValueError:
        if not names or ":" in host or host.replace(".", "").isdecimal():
            raise UsageError(_why_not_a_host(text, host)) from None
        canonical = canonical_host(host, text)
    if port_text is None:
        if default_port is None:
            raise UsageError(f"address {text!r} has no port; write it like {example}")
        port = default_port
    else:
        # str.isdecimal takes digits of other scripts, which isascii leaves out; 6 digits are never a port.
        is_number = port_text.isascii() and port_text.isdecimal() and len(port_text) <= 5
        port = int(port_text) if is_number else 0
        if not 1 <= port <= 65535:
            raise UsageError(f"port {port_text!r} in {text!r} is not a number from 1 to 65535")
    return f"{canonical}:{port}"


def _split(text: str) -> tuple[str, str | None]:
    """Split into host and port text, or None where no port is named."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise UsageError(f'address {text!r} has an unmatched bracket; write IPv6 like "[::1]:5300"')
        if ":" not in host:
            raise UsageError(f'address {text!r}: brackets are for IPv6, like "[::1]:5300"')
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None
    host, colon, port_text = text.partition(":")
    return host, port_text if colon else None


def _why_not_a_host(text: str, host: str) -> str:
    if "://" in text:
        return f'address {text!r} is a URL; write host and port only, like "127.0.0.1:5300"'
    if ":" in host:
        return f'{host!r} in {text!r} is not an IPv6 address; with a port write it like "[::1]:5300"'
    if host.replace(".", "").isdecimal():
        return f"{host!r} in {text!r} is not an IPv4 address"
    return (
        f"{host!r} in {text!r} is not a numeric address, and this kind takes no host names: "
        "look the name up and give the address"
    )


def target_origin(
    scheme: str, target: object, default_port: int | None = None, *, names: bool = False
) -> str:
    """Return the origin of a kind whose targets are addresses, or names of upstreams in ``reqpool.toml``.

    Args:
        scheme: the kind's, ``"udp"``.
        target: an address, as for :func:`canonical_address`, or a name. One with a dot is a host's.
        default_port: as for :func:`canonical_address`.
        names: likewise.

    Raises:
        UsageError: if it is neither.
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
    """Read a URL that is scheme and address, as it stands in ``reqpool.toml``.

    Raises:
        UsageError: if it has more than that, or a password or TLS is given.
    """
    if password is not None or tls is not None:
        raise UsageError(f"{scheme}:// has no {'password' if tls is None else 'TLS'}")
    found, separator, address = url.partition("://")
    if not separator or found.lower() != scheme:
        raise UsageError(f"{url!r} is no URL of {scheme}://")
    try:
        return Endpoint(
            f"{scheme}://{canonical_address(address.removesuffix('/'), default_port, names=names)}", b""
        )
    except UsageError as error:
        raise UsageError(f"{url!r}: {error}") from error
