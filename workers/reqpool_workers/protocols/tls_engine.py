"""The client's side of one TLS connection, sans-IO: bytes in, bytes out.

Some facts this file relies on:

* OpenSSL writes its own messages (handshake steps, alerts, replies to KeyUpdate and to renegotiation) into
  the outgoing BIO, at any call, reads included: it is emptied after each.
* ``write`` takes one record (16 KiB) a call: CPython sets SSL_MODE_ENABLE_PARTIAL_WRITE. It takes nothing
  while a renegotiation runs (SSLWantReadError).
* ``read`` gives at most one record, b"" after the peer's close_notify.
* With TLS 1.3 a client has finished before the server looks at the client's certificate: a refusal is an
  alert that comes with the first read, when requests may have been sent (RFC 8446 §4.4.2.4).
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from reqpool_contract.errors import ConnectFailed, ConnectionLost, PoolError, UsageError

from .tls_context import context_of
from .tls_errors import failure

RECORD_BYTES = 16 << 10
"""Largest plaintext of a record (RFC 8446 §5.1)."""

_ALERT, _HANDSHAKE = 21, 22
"""Content types a server's first record may have (RFC 8446 §5.1)."""


class TlsEngine:
    """The client's side of one TLS connection.

    Args:
        settings: ``verify`` bool, ``ca``, ``cert``, ``key`` PEM text, ``server_name``; all optional, see
            :class:`reqpool_contract.tls_settings.Tls`.
        host: the host connected to, name or address: what the server's certificate must be for, unless
            ``server_name`` says otherwise.
        alpn: protocols to offer, the preferred one first (RFC 7301).

    Attributes:
        established: the handshake is over.
        closed: the peer has announced that it sends no more (close_notify).

    Raises:
        UsageError: if the settings make no sense.
    """

    __slots__ = ("_begun", "_has_cert", "_incoming", "_name", "_object", "_outgoing", "_unwritten", "closed",
                 "established")  # fmt: skip

    def __init__(self, settings: Mapping[str, Any], host: str, alpn: Sequence[str] = ()) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._name = str(settings.get("server_name") or host)
        self._has_cert = bool(settings.get("cert"))
        self._begun = False
        self._unwritten = bytearray()
        self.established = False
        self.closed = False
        context = context_of(
            settings.get("verify", True) is not False,
            *(_pem_text(settings, name) for name in ("ca", "cert", "key")),
            tuple(alpn),
        )
        try:
            self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=self._name)
        except ValueError as error:  # UnicodeError too
            raise UsageError(f"tls: {self._name!r} is not a server name: {error}") from error

    def start(self) -> bytes:
        """Begin the handshake: return the first bytes to send."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._object.do_handshake()
        return self._outgoing.read()

    def feed(self, ciphertext: bytes) -> tuple[bytes, bytes]:
        """Take bytes from the peer; return their plaintext, and what must be sent now. Either may be empty.

        Raises:
            ConnectFailed: if the handshake fails, or the server refuses our certificate; the text says why.
            ConnectionLost: if the server breaks off later.
            BadResponse: if what comes later is not TLS.
        """
        if not self._begun and ciphertext:
            if ciphertext[0] not in (_ALERT, _HANDSHAKE):
                raise ConnectFailed(f"the server does not speak TLS: its first bytes are {ciphertext[:32]!r}")
            self._begun = True
        if self.closed:
            return b"", b""  # what follows close_notify must be ignored (RFC 8446 §6.1)
        self._incoming.write(ciphertext)
        try:
            plaintext = self._read() if self.established or self._shake_hands() else b""
            if self._unwritten:
                self._write()
        except ssl.SSLError as error:
            raise self._failed(error) from error
        return plaintext, self._outgoing.read() if self._outgoing.pending else b""

    def encrypt(self, data: bytes) -> bytes:
        """Return what to send for ``data``, once established; in the order of the calls.

        Empty while the peer renegotiates: :meth:`feed` then returns it later. Empty after its close_notify.

        Raises:
            ConnectionLost: if TLS has failed.
        """
        if self.closed:
            return b""
        try:
            if data and not self._unwritten and len(data) <= RECORD_BYTES:
                try:
                    self._object.write(data)
                except ssl.SSLWantReadError:
                    self._unwritten += data
            else:
                self._unwritten += data
                self._write()
        except ssl.SSLError as error:
            raise self._failed(error) from error
        return self._outgoing.read()

    def eof(self) -> None:
        """Take the end of the stream; return if the peer had announced it, see :attr:`closed`.

        Raises:
            ConnectFailed: if the handshake was not over.
            ConnectionLost: if it had not been announced: an attacker may have cut off the rest (RFC 8446
                §6.1).
        """
        if not self.established:
            raise ConnectFailed("the server closed the connection during the TLS handshake")
        if not self.closed:
            raise ConnectionLost("the peer closed the connection without TLS's close_notify")

    def _shake_hands(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.established = True
        return True

    def _read(self) -> bytes:
        read, pending, incoming = self._object.read, self._object.pending, self._incoming
        chunks: list[bytes] = []
        try:
            while data := read(RECORD_BYTES):
                chunks.append(data)
                # What is left is less than a record, and in OpenSSL's hands: asking would cost an exception.
                if not incoming.pending and not pending():
                    break
            else:
                self._on_close_notify()
        except ssl.SSLWantReadError:
            pass
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _on_close_notify(self) -> None:
        self.closed = True
        self._unwritten.clear()
        # Ours in turn; whether more is expected of the peer does not matter any more.
        with contextlib.suppress(ssl.SSLError):
            self._object.unwrap()

    def _write(self) -> None:
        unwritten = self._unwritten
        with memoryview(unwritten) as view:
            at = 0
            with contextlib.suppress(ssl.SSLWantReadError):
                while at < len(view):
                    at += self._object.write(view[at:])
        del unwritten[:at]

    def _failed(self, error: ssl.SSLError) -> PoolError:
        refused = isinstance(error, ssl.SSLCertVerificationError)
        return failure(
            error,
            name=self._name,
            has_cert=self._has_cert,
            established=self.established,
            certificate=self._certificate() if refused else {},
        )

    def _certificate(self) -> Mapping[str, Any]:
        """Return the fields of the server's certificate, if Python gives them before it is verified."""
        # getpeercert() raises until then; the method behind it has no public name before Python 3.13.
        try:
            chain = self._object._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
            about: Mapping[str, Any] = chain[0].get_info()
        except (AttributeError, TypeError, IndexError, ValueError):
            return {}
        return about


def _pem_text(settings: Mapping[str, Any], name: str) -> str | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"tls {name}: PEM text is expected, not {type(value).__name__}")
    return value
