"""Where an origin is: an address to connect to, or a name to look up.

The only file of the protocols with ``socket``, for the numbers of address families and interfaces.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any, NamedTuple

from reqpool_contract.errors import UsageError
from reqpool_contract.host_names import as_served, canonical_address, netloc
from reqpool_contract.origin_names import host_and_port


class Address(NamedTuple):
    """Where to connect to: ``family`` is ``socket.AF_*``, ``sockaddr`` what ``socket.connect`` takes."""

    family: int
    sockaddr: Any

    def __str__(self) -> str:
        if isinstance(self.sockaddr, str):
            return self.sockaddr
        return netloc(self.sockaddr[0], self.sockaddr[1])


class Name(NamedTuple):
    """A host whose addresses must be looked up."""

    host: str
    port: int


def numeric_address(origin: str) -> Address:
    """Read ``scheme://host:port`` with a numeric IPv4 or IPv6 host, or ``localhost`` (127.0.0.1).

    Raises:
        UsageError: for a host name (the loop cannot look it up without blocking), no port, or a zone that is
            not a network interface here.
    """
    host, port = host_and_port(origin)
    if host == "localhost":
        host = "127.0.0.1"
    if canonical_address(host) is None:
        raise UsageError(f"{host!r} is not a numeric address; names are not looked up", origin=origin)
    return address_of(host, port)


def stream_address(origin: str) -> Address | Name:
    """Read ``scheme://[user@]host:port…``, with an address or a name as host.

    Raises:
        UsageError: if there is no host or no port, or a zone that is not a network interface here.
    """
    host, port = host_and_port(origin)
    return Name(host, port) if canonical_address(host) is None else address_of(host, port)


def served_host(origin: str) -> str:
    """Return an origin's host as its server knows it, for a Host header, SNI and certificates.

    Empty if the origin has none.
    """
    try:
        return as_served(host_and_port(origin)[0])
    except UsageError:
        return ""


def address_of(host: str, port: int) -> Address:
    """Make an address of a numeric host, perhaps with a zone: ``fe80::1%eth0``.

    Raises:
        UsageError: if its zone is not a network interface here.
    """
    if ip_address(host).version == 4:
        return Address(socket.AF_INET, (host, port))
    address, _, zone = host.partition("%")
    return Address(socket.AF_INET6, (address, port, 0, _interface(zone) if zone else 0))


def unix_address(path: str) -> Address:
    """Make the address of a Unix socket in the file system."""
    return Address(socket.AF_UNIX, path)


def _interface(zone: str) -> int:
    try:
        return socket.if_nametoindex(zone)
    except OSError as error:
        if zone.isdecimal() and int(zone) < 1 << 32:  # the number itself (RFC 4007 §11.2); more wraps around
            return int(zone)
        raise UsageError(f"{zone!r} is not a network interface of this machine") from error
