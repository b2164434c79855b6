"""Kind ``mysql``: where its upstreams are, and how a connection to one is made."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

from reqpool_contract.errors import UsageError

from . import Address, Name, StreamKind, StreamProtocol, served_host, settings_of, stream_address
from .addresses import unix_address

CONNECTIONS = 48
"""Default cap per upstream: a third of the 151 that servers take from all their clients together (their
``max_connections``). One-row SELECTs by one producer, 200 in flight, on 2 cores: 32 gave 21 k/s, 48 gave
23 k/s and a fifth less CPU for each, since more answers travel together; 64 and 100 no more than that."""


def address(origin: str) -> Address | Name:
    """Read ``mysql://user@host:port/database``, or ``mysql://user@/database?socket=/path``.

    Raises:
        UsageError: if it has neither a host and a port nor a socket.
    """
    path = parse_qs(urlsplit(origin).query).get("socket")
    return unix_address(path[0]) if path else stream_address(origin)


def protocol(origin: str, settings: bytes, max_bytes: int) -> StreamProtocol:
    """Make the protocol of one connection.

    Args:
        origin: as for :func:`address`.
        settings: ``password`` str, ``tls`` map; both may be omitted. With ``tls`` the connection is encrypted
            or refused.
        max_bytes: the largest answer, packet headers included.

    Raises:
        UsageError: if PyMySQL is missing, or the origin or the settings are malformed.
    """
    try:
        from .mysql_connection import MysqlConnection
        from .mysql_login import Account
    except ImportError as error:
        raise UsageError(f"this worker lacks {error.name}: pip install 'reqpool[server]'") from error
    given = settings_of(settings)
    password = given.get("password", "")
    tls = given.get("tls")
    if not isinstance(password, str) or not (tls is None or isinstance(tls, dict)):
        raise UsageError("malformed settings: password must be a string and tls a map")
    parts = urlsplit(origin)
    account = Account(
        user=unquote(parts.username or "").encode(),
        password=password.encode(),
        database=unquote(parts.path.removeprefix("/")).encode(),
    )
    host = served_host(origin)
    return MysqlConnection(account, max_bytes, tls, host, local=not host)


WORKER_KIND = StreamKind(name="mysql", limit=CONNECTIONS, address=address, protocol=protocol)
