"""Addresses of upstreams: reads ``host:port`` and writes it in its canonical form.

An upstream must have only one spelling: the pool's limits are counted per origin, and two spellings would
have two limits.
"""

from __future__ import annotations

from reqpool_contract.errors import UsageError
from reqpool_contract.host_names import canonical_address as canonical_ip
from reqpool_contract.host_names import canonical_host, netloc
from reqpool_contract.masking import without_password


def canonical_address(text: object, default_port: int | None = None, *, names: bool = False) -> str:
    """Check an address and write it in its canonical form.

    Args:
        text: ``"127.0.0.1:53"``, ``"[::1]:53"``, ``"localhost:53"``; with a default port also
            ``"127.0.0.1"``, ``"[::1]"`` and ``"::1"``.
        default_port: the port if the text has none; None: it must have one.
        names: whether the host may be a name, which the workers look up.

    Returns:
        ``"127.0.0.1:53"`` or ``"[::1]:53"``: compressed, always with a port. ``localhost`` becomes
        127.0.0.1 (RFC 6761 §6.3: it is the loopback address, without a lookup). A link-local address keeps
        its zone: ``"[fe80::1%eth0]:53"``.

    Raises:
        UsageError: it is not an address; the text contains it and says how to write one.
    """
    example = '"127.0.0.1:5300" or "[::1]:5300"'
    if not isinstance(text, str):
        raise UsageError(f"an address must be a string like {example}, not {type(text).__name__}")
    shown = repr(without_password(text))
    if "@" in text:
        raise UsageError(f"address {shown} has a user name or a password in it; write it like {example}")
    if "://" in text:
        raise UsageError(f"address {shown} is a URL; write host and port only, like {example}")
    if "#" in text or "?" in text:
        raise UsageError(f"address {shown} has more than host and port; write it like {example}")
    host, port_text = _split(text, shown)
    if host == "":
        raise UsageError(f"address {shown} has no host; write it like {example}")
    canonical = canonical_ip("127.0.0.1" if host.lower() == "localhost" else host)
    if canonical is None:
        if ":" in host:
            raise UsageError(f'{shown} is not an IPv6 address; with a port write it like "[::1]:5300"')
        if not names and not host.replace(".", "").isdecimal():
            raise UsageError(
                f"{host!r} in {shown} is not a numeric address, and this kind does not accept host "
                "names: resolve the name and give the address"
            )
        canonical = canonical_host(host, text)
    if port_text is None:
        if default_port is None:
            raise UsageError(f"address {shown} has no port; write it like {example}")
        return netloc(canonical, default_port)
    # isascii excludes the digits of other scripts, which isdecimal accepts; 6 digits are never a port.
    is_number = port_text.isascii() and port_text.isdecimal() and len(port_text) <= 5
    port = int(port_text) if is_number else 0
    if not 1 <= port <= 65535:
        raise UsageError(f"the port in {shown} is not a number from 1 to 65535")
    return netloc(canonical, port)


def _split(text: str, shown: str) -> tuple[str, str | None]:
    """Split into host and port, which is None if there is none."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise UsageError(f'address {shown} has an unmatched bracket; write IPv6 like "[::1]:5300"')
        if ":" not in host:
            raise UsageError(f'address {shown}: brackets are for IPv6, like "[::1]:5300"')
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None
    host, colon, port_text = text.partition(":")
    return host, port_text if colon else None
