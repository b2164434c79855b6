"""What scripts for :class:`support.tcp_peer.TcpPeer` need to speak Redis."""

from __future__ import annotations

from collections.abc import Iterator

from .tcp_peer import Connection


def commands(connection: Connection) -> Iterator[list[bytes]]:
    """Yield the commands that come, as words; the handshake's is answered."""
    data = b""
    while more := connection.read():
        data += more
        while (parsed := _first(data)) is not None:
            words, data = parsed
            if words[:2] == [b"CLIENT", b"SETNAME"]:
                connection.send(b"+OK\r\n")
            else:
                yield words


def _first(data: bytes) -> tuple[list[bytes], bytes] | None:
    head, line_end, rest = data.partition(b"\r\n")
    if not line_end:
        return None
    words = []
    for _ in range(int(head[1:])):
        length, line_end, rest = rest.partition(b"\r\n")
        if not line_end or len(rest) < int(length[1:]) + 2:
            return None
        words.append(rest[: int(length[1:])])
        rest = rest[int(length[1:]) + 2 :]
    return words, rest


def bulk(value: bytes) -> bytes:
    """Write a bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)
