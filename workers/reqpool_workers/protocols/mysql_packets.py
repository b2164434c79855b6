"""MySQL's packets: framing, and the few that are read rather than passed on.

A packet is a 3-byte length, a sequence number, and that many bytes; a length of 0xFFFFFF means that the next
packet continues this one. The numbers count up through both sides' packets of one exchange, modulo 256.
Source: https://mariadb.com/kb/en/0-packet/ and dev.mysql.com/doc/dev/mysql-server, "Client/Server Protocol".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from pymysql.constants import CLIENT, SERVER_STATUS
from pymysql.protocol import MysqlPacket

from reqpool_contract.errors import BadResponse, PoolError
from reqpool_contract.payloads.mysql import HEADER_BYTES, MAX_PACKET_BYTES

LOCAL_INFILE = 0xFB
"""First byte of a packet, as OK, EOF and ERR are."""

COM_INIT_DB, COM_RESET_CONNECTION = b"\x02", b"\x1f"
COM_STMT_PREPARE, COM_STMT_EXECUTE, COM_STMT_CLOSE = b"\x16", b"\x17", b"\x19"

IN_TRANS: int = SERVER_STATUS.SERVER_STATUS_IN_TRANS
AUTOCOMMIT: int = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
MORE_RESULTS: int = SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
DB_DROPPED: int = SERVER_STATUS.SERVER_STATUS_DB_DROPPED
NO_BACKSLASH_ESCAPES: int = SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES
SESSION_STATE_CHANGED = 0x4000

SESSION_TRACK: int = CLIENT.SESSION_TRACK
DEPRECATE_EOF: int = CLIENT.DEPRECATE_EOF

ENDS_CONNECTION = frozenset((1053, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 3032, 3169, 4031))
"""Errors that end the connection, whatever was asked: the server shuts down (1053, 1079) or is taken offline
(3032), the connection was killed (1927 MariaDB, 3169 MySQL, 1080), was idle for too long (4031), or broke
(1152, 1158 to 1161, 1184)."""

TRACK_VARIABLES, TRACK_SCHEMA, TRACK_STATE, TRACK_TRANSACTION = 0, 1, 2, 5
"""Types of session-track information."""
_NO_TRANSACTION = b"________"


Tracked = Sequence[tuple[int, bytes]]
"""Session-track information: pairs of TRACK_* and the raw value."""


class ServerError(NamedTuple):
    """An ERR packet.

    Attributes:
        number: e.g. 1045.
        sqlstate: five characters; ``HY000`` where the server sent none (before authentication).
        text: the server's message.
    """

    number: int
    sqlstate: str
    text: str

    def __str__(self) -> str:
        return f"{self.text} ({self.number}, SQLSTATE {self.sqlstate})"


class Reader:
    """PyMySQL's reader of one packet's payload, typed."""

    def __init__(self, payload: bytes) -> None:
        self._packet: Any = MysqlPacket(payload, "utf-8")
        self._size = len(payload)

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return self._size - int(self._packet._position)

    def skip(self, size: int) -> None:
        """Skip bytes."""
        self._packet.advance(size)

    def take(self, size: int) -> bytes:
        """Read bytes."""
        return bytes(self._packet.read(size))

    def uint8(self) -> int:
        """Read one byte."""
        return int(self._packet.read_uint8())

    def uint16(self) -> int:
        """Read two bytes."""
        return int(self._packet.read_uint16())

    def length(self) -> int:
        """Read a length-encoded number; NULL as 0."""
        return int(self._packet.read_length_encoded_integer() or 0)

    def text(self) -> bytes:
        """Read a length-encoded string; NULL as an empty one."""
        return bytes(self._packet.read_length_coded_string() or b"")

    def until_nul(self) -> bytes:
        """Read up to a NUL byte, without it."""
        found = self._packet.read_string()
        if found is None:
            raise ValueError("an unterminated string")
        return bytes(found)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn any exception of PyMySQL's reader at the end of the data into a BadResponse.

    Raises:
        BadResponse: the text says that ``what`` is malformed.
    """
    try:
        yield
    except PoolError:
        raise
    except Exception as error:  # AssertionError, IndexError, struct.error, and Exception itself (advance)
        raise BadResponse(f"malformed {what}: {error!r}") from error


def packet(payload: bytes, number: int = 0) -> bytes:
    """Frame one payload as one packet, or as several if it is long.

    Args:
        payload: the packet's bytes.
        number: the (first) packet's sequence number, 0 for a command.
    """
    if len(payload) < MAX_PACKET_BYTES:
        return (len(payload) | number << 24).to_bytes(HEADER_BYTES, "little") + payload
    pieces: list[bytes] = []
    for at in range(0, len(payload) + 1, MAX_PACKET_BYTES):
        piece = payload[at : at + MAX_PACKET_BYTES]
        pieces += (len(piece) | number << 24).to_bytes(HEADER_BYTES, "little"), piece
        number = number + 1 & 0xFF
    return b"".join(pieces)


def length_encoded(data: bytes) -> bytes:
    """Write bytes as a length-encoded string."""
    length = len(data)
    if length < 0xFB:
        return bytes((length,)) + data
    if length < 1 << 16:
        return b"\xfc" + length.to_bytes(2, "little") + data
    return b"\xfd" + length.to_bytes(3, "little") + data


def read_error(payload: bytes) -> ServerError:
    """Read an ERR packet.

    Raises:
        BadResponse: if it is too short to be one.
    """
    if len(payload) < 3:
        raise BadResponse("an ERR packet of less than 3 bytes")
    number = int.from_bytes(payload[1:3], "little")
    sqlstate, text = "HY000", payload[3:]
    if text[:1] == b"#" and len(text) >= 6:
        sqlstate, text = text[1:6].decode("ascii", "replace"), text[6:]
    return ServerError(number, sqlstate, text.decode("utf-8", "replace"))


def read_eof(payload: bytes) -> tuple[int, Tracked]:
    """Read an EOF packet, as servers without CLIENT_DEPRECATE_EOF send it: the status flags, nothing tracked.

    Raises:
        BadResponse: if it is cut short.
    """
    if len(payload) < 5:
        raise BadResponse("an EOF packet of less than 5 bytes")
    return payload[3] | payload[4] << 8, ()


def read_status(payload: bytes) -> int:
    """Read the status flags of an OK packet.

    Raises:
        BadResponse: if it is malformed.
    """
    return read_ok(payload, tracks=False)[0]


def read_ok(payload: bytes, *, tracks: bool) -> tuple[int, Tracked]:
    """Read an OK packet, whose first byte is OK or, at the end of rows, EOF: status flags and tracked
    changes.

    Args:
        payload: the packet's bytes.
        tracks: whether CLIENT_SESSION_TRACK was agreed on. Without it nothing after the warnings is read: the
            remark there is the rest of the packet, according to the protocol's description, and ClickHouse
            and Dolt send it so (ClickHouse#84542), although MySQL writes its length.

    Raises:
        BadResponse: if it is malformed.
    """
    if (
        len(payload) == 7 and payload[1] == payload[2] == 0
    ):  # affects nothing, changes nothing: by far the most
        return payload[3] | payload[4] << 8, ()
    reader = Reader(payload)
    tracked = []
    with reading("OK packet"):
        reader.skip(1)
        reader.length()  # affected rows
        reader.length()  # last id
        status = reader.uint16()
        if tracks and status & SESSION_STATE_CHANGED:
            reader.skip(2)  # warnings
            # ProxySQL (#2915), and MaxScale with MariaDB, set the flag and send nothing.
            if reader.left:
                reader.text()  # a remark on what was done
            if reader.left:
                pieces = Reader(reader.text())
                while pieces.left:
                    tracked.append((pieces.uint8(), pieces.text()))
    return status, tuple(tracked)


def changes(tracked: Tracked) -> set[int]:
    """Return the TRACK_* types of what now differs from a shared connection."""
    return {
        about
        for about, value in tracked
        if about in (TRACK_VARIABLES, TRACK_SCHEMA, TRACK_STATE)
        or (about == TRACK_TRANSACTION and value[1:] != _NO_TRANSACTION)
    }


def tracked_variables(value: bytes) -> dict[bytes, bytes]:
    """Read the value of a TRACK_VARIABLES piece: names and their new values.

    Raises:
        BadResponse: if it is malformed.
    """
    reader = Reader(value)
    found = {}
    with reading("session-track information"):
        while reader.left:
            name = reader.text()
            found[name] = reader.text()
    return found
