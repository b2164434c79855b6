"""URLs of a broker: which are good, and where its results socket is."""

from __future__ import annotations

import posixpath

from .errors import ProtocolError, UsageError

MAX_IPC_PATH_BYTES = 107
"""sun_path holds 108 with its NUL: unix(7)."""


def check(url: str) -> str:
    """Return the URL if a client can dial it.

    Raises:
        UsageError: naming what is wrong with it.
    """
    if not isinstance(url, str):
        raise UsageError(f"a broker's URL is a str, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("tcp", "ipc"):
        raise UsageError(f"{url!r} is no broker's URL: use tcp://host:port or ipc:///path")
    if scheme == "ipc":
        if not rest or "\0" in rest or len(rest.encode()) > MAX_IPC_PATH_BYTES:
            raise UsageError(f"{url!r}: an ipc path has 1 to {MAX_IPC_PATH_BYTES} bytes")
        return url
    host, _, port = rest.rpartition(":")
    if not host or host == "*" or any(c.isspace() or c in "/;@" for c in host):
        raise UsageError(f"{url!r} names no host: use tcp://host:port")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise UsageError(f"{url!r}: put an IPv6 address in brackets, tcp://[::1]:port")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"{url!r}: the port is a number from 1 to 65535")
    return url


def results_url(dialled: str, results: str) -> str:
    """Make the results socket's URL from WELCOME's ``results``, docs/protocol.md#sockets.

    Raises:
        ProtocolError: if it makes none.
    """
    if "://" in results:
        derived = results
    elif dialled.startswith("tcp://"):
        derived = f"{dialled.rpartition(':')[0]}:{results}"
    elif "/" in results:
        raise ProtocolError(f"WELCOME.results {results!r} is no file name")
    else:
        derived = "ipc://" + posixpath.join(posixpath.dirname(dialled.removeprefix("ipc://")), results)
    try:
        return check(derived)
    except UsageError as error:
        raise ProtocolError(f"WELCOME.results: {error}") from error
