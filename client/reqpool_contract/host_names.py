"""Host names and addresses in their canonical spelling.

Names in other scripts are converted as browsers do: UTS 46, non-transitional, with the checks of the WHATWG
URL Standard ("domain to ASCII" with beStrict false). So ``straße.test`` is ``xn--strae-oqa.test``, as in IDNA
2008, and not ``strasse.test``, which is another host. IDNA 2008 itself would refuse names that browsers and
curl accept (with an emoji, say), so its mapping and checks are used without its list of code points.

A label may begin or end with a hyphen and contain underscores: such names exist in the DNS.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

from .errors import UsageError
from .masking import without_password

MAX_NAME_CHARACTERS = 253
"""RFC 1035 §2.3.4: 255 octets with the length octets, without the final dot."""

_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ZONE = re.compile(r"(.+?)%(?:25(?=.))?(.+)", re.DOTALL)
_ZONE_NAME = re.compile(r"[A-Za-z0-9_.~-]{1,15}")
"""IFNAMSIZ is 16 with the final NUL (netdevice(7))."""
_ACE = "xn--"
_JOINERS = frozenset("\u200c\u200d")


def canonical_host(host: str, url: str = "") -> str:
    """Write a host in its canonical form.

    Args:
        host: an address without brackets, or a name.
        url: the URL that contains it, for errors.

    Returns:
        An address, compressed, with its zone (``fe80::1%eth0``) if that has a meaning; otherwise a name in
        lower case and ASCII, with its final dot if it has one: such a name is not completed by search
        domains.

    Raises:
        UsageError: it is neither.
    """
    address = canonical_address(host)
    if address is not None:
        return address
    shown, about = (host, f" in {without_password(url)!r}") if url else (without_password(host), "")
    name, why = host, ""
    if len(host) > 4 * MAX_NAME_CHARACTERS:  # characters that are mapped away (soft hyphens) do not count
        raise UsageError(f"{shown[:40]!r}… is not a host name: it has {len(host)} characters")
    try:
        name = to_ascii(host).lower()
    except ValueError as error:
        why = f": {error}" if shown == host else ""  # the text contains a part of it
    labels = name.removesuffix(".").split(".")
    if why or len(name.removesuffix(".")) > MAX_NAME_CHARACTERS or not all(map(_LABEL.fullmatch, labels)):
        raise UsageError(f"{shown!r}{about} is not a host name{why}")
    if all(map(_NUMBER.fullmatch, labels)):
        # For inet_aton(3), and for some peers, 127.1, 0x7f.1 and 017700000001 are the loopback address.
        address = canonical_address(name)
        if address is None:
            raise UsageError(
                f"{shown!r}{about} is not an IPv4 address: write four decimal numbers, 127.0.0.1"
            )
        return address
    return name


def canonical_address(text: str) -> str | None:
    """Write an IPv4 or IPv6 address in its canonical form; None if it is not one.

    A zone may follow ``%``, as it is usually written, or ``%25``, as in URLs (RFC 6874). It is omitted unless
    the address is link-local: only there it has a meaning (RFC 4007 §11).
    """
    zoned = _ZONE.fullmatch(text)
    address, zone = zoned.groups() if zoned else (text, "")
    try:
        found = ip_address(address)
    except ValueError:
        return None
    if not zone:
        return str(found)
    zone = unquote(zone)
    if not isinstance(found, IPv6Address) or not _ZONE_NAME.fullmatch(zone):
        return None
    return f"{found}%{zone}" if found.is_link_local or found.is_multicast else str(found)


def to_ascii(name: str) -> str:
    """Write a name in ASCII as browsers do; an ASCII name is returned unchanged.

    Raises:
        ValueError: it cannot be written so; the text says why.
    """
    if name.isascii():
        return name
    import idna  # only for such names

    mapped = idna.uts46_remap(name, std3_rules=False, transitional=False)  # all its dots are "." now
    return ".".join(label if label.isascii() else _a_label(label) for label in mapped.split("."))


def _a_label(label: str) -> str:
    """Encode a label; raises ValueError (IDNAError is one)."""
    import idna

    if label.startswith(_ACE):
        raise ValueError(f"{label!r} looks like a label that is already encoded")
    idna.check_initial_combiner(label)
    idna.check_bidi(label)
    for at, character in enumerate(label):
        if character in _JOINERS and not idna.valid_contextj(label, at):
            raise ValueError(f"{label!r} has a joiner (U+{ord(character):04X}) where it joins nothing")
    return _ACE + label.encode("punycode").decode("ascii")


def as_served(host: str) -> str:
    """Return a host as its server knows it: without the final dot, and the zone, which is local."""
    return host.partition("%")[0].removesuffix(".")


def netloc(host: str, port: int) -> str:
    """Write host and port as in a URL and an origin."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
