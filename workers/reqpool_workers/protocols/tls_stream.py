"""A stream protocol inside TLS, from the first byte on.

Records are numbered in the order in which they were encrypted (RFC 8446 §5.3), so what was encrypted first
must be sent first: a protocol's bytes go before its answers, since an answer makes the core send at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reqpool_contract.errors import ConnectionLost

from .stream_protocol import Event, StreamProtocol
from .tls_engine import TlsEngine


class TlsStream(StreamProtocol):
    """Another protocol, inside TLS."""

    __slots__ = ("_inner", "_standing", "_tls")

    def __init__(self, inner: StreamProtocol, tls: TlsEngine) -> None:
        self._inner = inner
        self._tls = tls
        self._standing = False

    def connected(self) -> Sequence[Event]:
        return [self._tls.start()]

    def send(self, request: Any) -> bytes:
        return self._tls.encrypt(self._inner.send(request))

    def feed(self, data: bytes) -> Sequence[Event]:
        tls, inner = self._tls, self._inner
        plaintext, output = tls.feed(data)
        events: Sequence[Event] = ()
        if not self._standing:
            if not tls.established:
                return [output] if output else []
            self._standing = True
            events = inner.connected()
        if plaintext:
            fed = inner.feed(plaintext)
            events = [*events, *fed] if events else fed
        if tls.closed:
            events = [*events, *inner.eof()]
            if not events:
                # The end of the connection may come much later, and until then it would look usable.
                raise ConnectionLost("the peer closed the connection")
        return self._encrypted(events, output)

    def eof(self) -> Sequence[Event]:
        self._tls.eof()
        return []  # the inner protocol was told when close_notify came

    def shorten_handshake(self) -> bool:
        return self._standing and self._inner.shorten_handshake()

    @property
    def reusable(self) -> bool:
        return not self._tls.closed and self._inner.reusable

    @property
    def begun(self) -> bool:
        return self._inner.begun

    def hold(self) -> Sequence[Event]:
        return self._encrypted(self._inner.hold())

    def release(self) -> Sequence[Event] | None:
        events = self._inner.release()
        return None if events is None else self._encrypted(events)

    def _encrypted(self, events: Sequence[Event], output: bytes = b"") -> Sequence[Event]:
        """Put all that is to be sent, encrypted and in one piece, before the other events."""
        plain = [event for event in events if type(event) is bytes]
        if plain:
            output += self._tls.encrypt(b"".join(plain))
        elif not output:
            return events
        return [output, *(event for event in events if type(event) is not bytes)]


def wrap(
    inner: StreamProtocol, settings: Mapping[str, Any], host: str, alpn: Sequence[str] = ()
) -> StreamProtocol:
    """Put TLS, from the first byte on, under a protocol.

    Args:
        inner: what is spoken inside; its ``connected`` is called once the handshake is over.
        settings, host, alpn: as :class:`TlsEngine` takes them.

    Raises:
        UsageError: if the settings make no sense.
    """
    return TlsStream(inner, TlsEngine(settings, host, alpn))
