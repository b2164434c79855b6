"""URLs of a broker: checks, and the URL of its results socket."""

from __future__ import annotations

import posixpath
import re

from .errors import ProtocolError, UsageError
from .masking import without_password
from .socket_path import MAX_SOCKET_PATH_BYTES

LONGEST_IPC_SUFFIX = ".results"
"""The suffixes of the broker's other sockets, after the path of its intake: this, and ``.workers``."""

# As zmq_connect(3) accepts it (libzmq, socket_base.cpp), without wildcards. Names are ASCII: IDNA is not
# applied to brokers.
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._-]+)?\]")


def check(url: str) -> str:
    """Return the URL if clients can connect to it and to the broker's other sockets.

    Raises:
        UsageError: they cannot; the text says why.
    """
    return _check(url, MAX_SOCKET_PATH_BYTES - len(LONGEST_IPC_SUFFIX))


def _check(url: str, most_bytes: int) -> str:
    if not isinstance(url, str):
        raise UsageError(f"a broker URL must be a str, not {type(url).__name__}")
    shown = without_password(url)
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("tcp", "ipc"):
        raise UsageError(f"{shown!r} is not a broker URL: use tcp://host:port or ipc:///path")
    if scheme == "ipc":
        try:
            path = rest.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{shown!r}: an ipc path must be UTF-8") from error
        if rest in ("", "@", "*") or b"\0" in path or len(path) > most_bytes:
            raise UsageError(f"{shown!r}: an ipc path must have 1 to {most_bytes} bytes")
        return url
    if "@" in rest:
        raise UsageError(f"{shown!r}: a broker URL cannot have a user name or a password")
    if _HOST.fullmatch(rest):
        raise UsageError(f"{shown!r} has no port: use tcp://host:port")
    host, _, port = rest.rpartition(":")
    if ":" in host and not host.startswith("["):
        raise UsageError(f"{shown!r}: put an IPv6 address in brackets, tcp://[::1]:port")
    if not _HOST.fullmatch(host):
        raise UsageError(f"{shown!r} has no host: use tcp://host:port with an ASCII name or an address")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise UsageError(f"{shown!r}: the port must be a number from 1 to 65535")
    return url


def results_url(dialled: str, results: str) -> str:
    """Make the results socket's URL from WELCOME's ``results``, docs/protocol.md#sockets.

    Raises:
        ProtocolError: the result is not a URL.
    """
    if "://" in results:
        derived = results
    elif dialled.startswith("tcp://"):
        derived = f"{dialled.rpartition(':')[0]}:{results}"
    elif "/" in results:
        raise ProtocolError(f"WELCOME.results {results!r} is not a file name")
    else:
        derived = "ipc://" + posixpath.join(posixpath.dirname(dialled.removeprefix("ipc://")), results)
    try:
        return _check(derived, MAX_SOCKET_PATH_BYTES)
    except UsageError as error:
        raise ProtocolError(f"WELCOME.results: {error}") from error
