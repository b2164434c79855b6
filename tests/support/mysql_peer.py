"""A MySQL server's half of the protocol: packets by hand, and a script for a TcpPeer that logs anybody in.

    with TcpPeer(serves({b"SELECT 1": rows(("1",), [(b"1",)])})) as peer:
        pool.mysql(f"mysql://me@{peer.address}/", "SELECT 1")

What it knows of authentication it computes by itself, from hashlib and cryptography: Debian's MariaDB has no
caching_sha2_password. Sources: dev.mysql.com/doc/dev/mysql-server, "Client/Server Protocol".
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .tcp_peer import Connection, Script

SALT = b"abcdefgh" + b"ijklmnopqrst"
"""20 bytes, none of them NUL."""

(
    LONG_PASSWORD, CONNECT_WITH_DB, LOCAL_FILES, PROTOCOL_41, SSL, SECURE_CONNECTION, MULTI_STATEMENTS,
    MULTI_RESULTS, PLUGIN_AUTH, CONNECT_ATTRS, LENENC_AUTH, SESSION_TRACK, DEPRECATE_EOF,
) = (1 << bit for bit in (0, 3, 7, 9, 11, 15, 16, 17, 19, 20, 21, 23, 24))  # fmt: skip
MODERN = 0xFFFFFFFF & ~SSL
"""Everything but TLS, LOCAL INFILE and several statements in one included."""
OLD = MODERN & ~(SESSION_TRACK | DEPRECATE_EOF)
"""What MySQL 5.6 and MariaDB 10.1 can do."""

AUTOCOMMIT, IN_TRANS, MORE_RESULTS, DB_DROPPED, NO_BACKSLASH_ESCAPES, STATE_CHANGED = (
    2,
    1,
    8,
    256,
    512,
    0x4000,
)
VARCHAR, BIGINT, BLOB = 253, 8, 252
UTF8MB4, BINARY = 45, 63

# --- packets -----------------------------------------------------------------------------------------


def packet(number: int, payload: bytes) -> bytes:
    """Frame one payload of less than 16 MB."""
    return struct.pack("<I", len(payload) | (number & 0xFF) << 24) + payload


def packets(first: int, payloads: Iterable[bytes]) -> bytes:
    """Frame payloads one after the other; those of 16 MB and more as several packets."""
    framed = []
    for payload in payloads:
        while len(payload) >= 0xFFFFFF:
            framed.append(packet(first, payload[:0xFFFFFF]))
            payload, first = payload[0xFFFFFF:], first + 1
        framed.append(packet(first, payload))
        first += 1
    return b"".join(framed)


def number(value: int) -> bytes:
    """Write a length-encoded number."""
    if value < 251:
        return bytes((value,))
    if value < 1 << 16:
        return b"\xfc" + struct.pack("<H", value)
    if value < 1 << 24:
        return b"\xfd" + struct.pack("<I", value)[:3]
    return b"\xfe" + struct.pack("<Q", value)


def text(value: bytes | None) -> bytes:
    """Write a length-encoded string, or NULL."""
    return b"\xfb" if value is None else number(len(value)) + value


def greeting(
    capabilities: int = MODERN,
    plugin: bytes = b"mysql_native_password",
    salt: bytes = SALT,
    version: bytes = b"8.0.99",
) -> bytes:
    """Return the payload with which a server begins."""
    return b"".join(
        (
            b"\x0a", version, b"\0", struct.pack("<I", 7), salt[:8], b"\0",
            struct.pack("<HBHHB", capabilities & 0xFFFF, 45, AUTOCOMMIT, capabilities >> 16, len(salt) + 1),
            bytes(10), salt[8:], b"\0", plugin, b"\0" if plugin else b"",
        )
    )  # fmt: skip


def ok(
    status: int = AUTOCOMMIT,
    *,
    affected: int = 0,
    last_id: int = 0,
    warnings: int = 0,
    info: bytes = b"",
    tracked: bytes = b"",
    ends_rows: bool = False,
) -> bytes:
    """Return the payload of an OK packet; ``tracked`` are pieces of :func:`track`."""
    if tracked:
        status |= STATE_CHANGED
    rest = text(info) if info or tracked else b""
    if tracked:
        rest += text(tracked)
    head = b"\xfe" if ends_rows else b"\0"
    return head + number(affected) + number(last_id) + struct.pack("<HH", status, warnings) + rest


def track(about: int, value: bytes) -> bytes:
    """Return a piece of session-track information."""
    return bytes((about,)) + text(value)


STATE = track(2, b"\x011")


def eof(status: int = AUTOCOMMIT, warnings: int = 0) -> bytes:
    """Return the payload of an EOF packet."""
    return b"\xfe" + struct.pack("<HH", warnings, status)


def err(error: int = 1064, sqlstate: bytes = b"42000", said: bytes = b"You have an error") -> bytes:
    """Return the payload of an ERR packet; without ``sqlstate`` as before the log-in."""
    return b"\xff" + struct.pack("<H", error) + (b"#" + sqlstate if sqlstate else b"") + said


def column(
    name: str, kind: int = VARCHAR, collation: int = UTF8MB4, flags: int = 0, decimals: int = 0
) -> bytes:
    """Return the payload of a column's definition."""
    texts = (b"def", b"test", b"t", b"t", name.encode(), name.encode())
    numbers = struct.pack("<BHIBHBH", 12, collation, 1020, kind, flags, decimals, 0)
    return b"".join(map(text, texts)) + numbers


def rows(
    columns: Sequence[str | bytes],
    values: Sequence[Sequence[bytes | None]],
    *,
    deprecate_eof: bool = True,
    status: int = AUTOCOMMIT,
    end: bytes | None = None,
) -> list[bytes]:
    """Return the payloads of a result set.

    Args:
        columns: names, of text, or payloads of :func:`column`.
        values: in the text protocol's form; None is NULL.
        deprecate_eof: were EOF packets done away with?
        status: of the last packet.
        end: the last packet instead.
    """
    definitions = [column(name) if isinstance(name, str) else name for name in columns]
    middle = [] if deprecate_eof else [eof()]
    if end is None:
        end = ok(status, ends_rows=True) if deprecate_eof else eof(status)
    return [number(len(columns)), *definitions, *middle, *(b"".join(map(text, row)) for row in values), end]


# --- a server over TCP --------------------------------------------------------------------------------


def read_packet(connection: Connection) -> tuple[int, bytes]:
    """Read one packet; number and payload.

    Raises:
        ConnectionError: if the other side closes.
    """
    head = _exactly(connection, 4)
    return head[3], _exactly(connection, int.from_bytes(head[:3], "little"))


def _exactly(connection: Connection, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.sock.recv(count - len(data))
        if not more:
            raise ConnectionError("the client closed")
        data += more
    connection.peer.received += data
    return data


def log_in(connection: Connection, capabilities: int = MODERN) -> None:
    """Let a client in without asking, and say OK to its first statement, which makes the session ours."""
    connection.send(packet(0, greeting(capabilities)))
    count, _ = read_packet(connection)
    connection.send(packet(count + 1, ok()))
    read_packet(connection)
    connection.send(packet(1, ok()))


def serves(
    answers: Mapping[bytes, Sequence[bytes]] | Callable[[bytes, Connection], bytes | None],
    capabilities: int = MODERN,
) -> Script:
    """Log anybody in and answer statements, until the client closes.

    Args:
        answers: SQL to payloads, or a function that returns framed packets (None: it has sent them itself).
            COM_QUIT and the like get none.
        capabilities: what the server can do.
    """

    def script(connection: Connection) -> None:
        log_in(connection, capabilities)
        while True:
            _, command = read_packet(connection)
            data = answers(command, connection) if callable(answers) else packets(1, answers[command[1:]])
            if data is not None:
                connection.send(data)

    return script


# --- authentication -----------------------------------------------------------------------------------


def knows_native(password: bytes, salt: bytes, reply: bytes) -> bool:
    """Check a mysql_native_password reply as a server does, which has SHA1(SHA1(password))."""
    stored = hashlib.sha1(hashlib.sha1(password).digest()).digest()
    mask = hashlib.sha1(salt + stored).digest()
    return (
        len(reply) == 20
        and hashlib.sha1(bytes(a ^ b for a, b in zip(reply, mask, strict=True))).digest() == stored
    )


def knows_caching_sha2(password: bytes, salt: bytes, reply: bytes) -> bool:
    """Check a caching_sha2_password reply of the fast path as a server does, which has
    SHA256(SHA256(password))."""
    stored = hashlib.sha256(hashlib.sha256(password).digest()).digest()
    mask = hashlib.sha256(stored + salt).digest()
    return (
        len(reply) == 32
        and hashlib.sha256(bytes(a ^ b for a, b in zip(reply, mask, strict=True))).digest() == stored
    )


class RsaKey:
    """A server's key, with which clients hide their password where there is no TLS."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def pem(self) -> bytes:
        """The public key, as it is sent."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def password(self, reply: bytes, salt: bytes) -> bytes:
        """Return the password in a client's reply, with its NUL."""
        hidden = self._key.decrypt(reply, padding.OAEP(padding.MGF1(SHA1()), SHA1(), None))
        return bytes(byte ^ salt[at % len(salt)] for at, byte in enumerate(hidden))
