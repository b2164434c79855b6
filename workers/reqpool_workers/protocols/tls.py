"""TLS for a connection, sans-IO: :class:`TlsEngine` turns bytes into bytes; :func:`wrap` puts it under a
protocol.

Some facts this file relies on:

* OpenSSL writes whatever it has to say (handshake steps, alerts, replies to KeyUpdate and to renegotiation)
  into the outgoing BIO, at any call, reads included: it is emptied after each.
* Records are numbered in the order in which they were encrypted (RFC 8446 §5.3), so what was encrypted first
  must be sent first: a protocol's bytes go before its answers, for an answer makes the core send at once.
* ``write`` takes one record (16 KiB) a call: CPython sets SSL_MODE_ENABLE_PARTIAL_WRITE. It takes nothing
  while a renegotiation runs (SSLWantReadError).
* ``read`` gives at most one record, b"" after the peer's close_notify.
* With TLS 1.3 a client has finished before the server looks at the client's certificate: a refusal is an
  alert that comes with the first read, when requests may have been sent (RFC 8446 §4.4.2.4).
* A certificate chain and its key can be loaded from files only; a memfd is a file that no other user can open
  and that is gone with its last descriptor (memfd_create(2)).
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from reqpool_contract.errors import BadResponse, ConnectFailed, ConnectionLost, PoolError, UsageError

from .stream_protocol import Event, StreamProtocol

RECORD_BYTES = 16 << 10
"""Largest plaintext of a record (RFC 8446 §5.1)."""
CONTEXTS = 64
"""Contexts kept; to make one takes some 25 ms where the system's authorities are read."""
NAMES_SHOWN = 8

_ALERT, _HANDSHAKE = 21, 22
"""Content types a server's first record may have (RFC 8446 §5.1)."""

_NOT_YET_VALID, _EXPIRED = 9, 10
_SELF_SIGNED = 18
_UNKNOWN_AUTHORITY = frozenset((2, 19, 20, 21, 27))
_OTHER_NAME = frozenset((62, 64))
"""X509_V_ERR_* of OpenSSL's x509_vfy.h."""

_AROUND_TEXT = re.compile(r"^\[.*?\] | \(_ssl\.c:\d+\)$")
"""What CPython puts around OpenSSL's text."""

_CERTIFICATE_ALERTS = {
    "BAD_CERTIFICATE": "it is broken",
    "UNSUPPORTED_CERTIFICATE": "the server does not support its type",
    "CERTIFICATE_REVOKED": "it was revoked",
    "CERTIFICATE_EXPIRED": "it has expired",
    "CERTIFICATE_UNKNOWN": "the server gives no reason",
    "UNKNOWN_CA": "the server does not know the authority that issued it",
    "ACCESS_DENIED": "access denied",
    "DECRYPT_ERROR": "its signature is wrong",
}
"""Alerts that are about our own certificate when we have one (RFC 8446 §6.2)."""


class TlsEngine:
    """The client's side of one TLS connection.

    Args:
        settings: ``verify`` bool, ``ca``, ``cert``, ``key`` PEM text, ``server_name``; all optional, see
            :class:`reqpool_contract.tls_settings.Tls`.
        host: the host connected to, name or address: what the server's certificate must be for, unless
            ``server_name`` says otherwise.
        alpn: protocols to offer, the preferred one first (RFC 7301).

    Attributes:
        established: is the handshake over?
        closed: has the peer said that it sends no more (close_notify)?

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
        context = _context(
            settings.get("verify", True) is not False,
            *(_text(settings, name) for name in ("ca", "cert", "key")),
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
        """Take bytes from the peer; return what they say, and what is to be sent now (either may be empty).

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
            raise self._failure(error) from error
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
            raise self._failure(error) from error
        return self._outgoing.read()

    def eof(self) -> None:
        """The peer has closed the connection. Returns if it had said so, see :attr:`closed`.

        Raises:
            ConnectFailed: if that was before the handshake was over.
            ConnectionLost: if it had not: somebody may have cut off the rest (RFC 8446 §6.1).
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

    # --- what went wrong ---------------------------------------------------------------------------

    def _failure(self, error: ssl.SSLError) -> PoolError:
        # Not every reason has a name in CPython's table; OpenSSL's text has the same words.
        reason = error.reason or _AROUND_TEXT.sub("", str(error)).upper().replace(" ", "_")
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConnectFailed(self._bad_certificate(error))
        _, is_alert, alert = reason.partition("_ALERT_")
        if is_alert:
            text = self._alert(alert)
            if text is not None:
                return ConnectFailed(text)
        said = reason.replace("_", " ").lower()
        if not self.established:
            return ConnectFailed(self._why_no_handshake(reason) or f"the TLS handshake failed: {said}")
        if is_alert:
            return ConnectionLost(f"the peer aborted TLS: {said}")
        return BadResponse(f"the peer's TLS is broken: {said}")

    def _bad_certificate(self, error: ssl.SSLCertVerificationError) -> str:
        about = self._certificate()
        code = error.verify_code
        if code == _EXPIRED:
            return f"the server's certificate has expired{_at(about, 'notAfter')}"
        if code == _NOT_YET_VALID:
            return f"the server's certificate is not yet valid{_from(about)}"
        if code in _OTHER_NAME:
            return f"the server's certificate is not for {self._name}{_names(about)}"
        if code == _SELF_SIGNED:
            return "the server's certificate is self-signed; to trust it, give it as tls ca"
        if code in _UNKNOWN_AUTHORITY:
            authority = f"an unknown authority{_issuer(about)}"
            return f"the server's certificate is from {authority}; to trust that authority, give tls ca"
        return f"the server's certificate is not accepted: {error.verify_message}"

    def _certificate(self) -> Mapping[str, Any]:
        """What the server's certificate says; empty where this Python does not tell before it is verified."""
        # getpeercert() raises until then; what is behind it has no public name before Python 3.13.
        try:
            chain = self._object._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
            about: Mapping[str, Any] = chain[0].get_info()
        except (AttributeError, TypeError, IndexError, ValueError):
            return {}
        return about

    def _alert(self, alert: str) -> str | None:
        """What an alert says about our certificate, if it does."""
        missing = "the server demands a client certificate; give tls cert and key"
        if alert in ("CERTIFICATE_REQUIRED", "NO_CERTIFICATE"):
            return missing
        if alert in _CERTIFICATE_ALERTS and self._has_cert:
            return f"the server refuses our client certificate: {_CERTIFICATE_ALERTS[alert]}"
        if alert == "BAD_CERTIFICATE":
            return missing  # TLS 1.2 servers that want one may say it so (RFC 5246 §7.4.6)
        return None

    def _why_no_handshake(self, reason: str) -> str | None:
        if reason.endswith(("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW")):
            return "no TLS version in common: the server does not support 1.2 or newer"
        if reason.endswith("UNRECOGNIZED_NAME"):
            return f"the server has no certificate for {self._name} (TLS: unrecognized name)"
        if reason.endswith("NO_APPLICATION_PROTOCOL"):
            return "no application protocol in common (TLS: ALPN)"
        if reason.endswith(("ALERT_HANDSHAKE_FAILURE", "INSUFFICIENT_SECURITY")):
            way_out = "" if self._has_cert else ", or it demands a client certificate (tls cert and key)"
            return f"the server aborted the TLS handshake: no cipher in common{way_out}"
        if reason.endswith(
            ("WRONG_VERSION_NUMBER", "RECORD_LENGTH", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE")
        ):
            return f"the server does not speak TLS ({reason.replace('_', ' ').lower()})"
        return None


class TlsStream(StreamProtocol):
    """Another protocol with TLS under it."""

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
                # The connection's own end may be long in coming, and until then it would look usable.
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


# --- contexts -------------------------------------------------------------------------------------


def _text(settings: Mapping[str, Any], name: str) -> str | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"tls {name}: PEM text is expected, not {type(value).__name__}")
    return value


@lru_cache(maxsize=CONTEXTS)
def _context(
    verify: bool, ca: str | None, cert: str | None, key: str | None, alpn: tuple[str, ...]
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # OpenSSL believes a common name where no alternative name is; nobody else does any more (RFC 9525 §2).
    context.hostname_checks_common_name = False
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        # OpenSSL passes over a file that it cannot open, and the context is kept: without a descriptor for
        # it nobody would be trusted any more.
        if known := ssl.get_default_verify_paths().cafile:
            with open(known, "rb"):
                context.load_default_certs()
        else:
            context.load_default_certs()
    else:
        try:
            context.load_verify_locations(cadata=ca)
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(f"tls ca: not a PEM file with certificates: {error}") from error
        # Whatever is given is trusted, an intermediate authority or the server's own certificate too.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if cert is not None:
        _load_own(context, cert, key)
        context.post_handshake_auth = True
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _load_own(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    """Load our certificate and its key."""
    with contextlib.ExitStack() as stack:
        paths = []
        for text in (cert,) if key is None else (cert, key):
            fd = os.memfd_create("reqpool-tls", os.MFD_CLOEXEC)
            stack.callback(os.close, fd)
            with open(fd, "w", encoding="utf-8", closefd=False) as file:
                file.write(text)
            paths.append(f"/proc/self/fd/{fd}")
        try:
            context.load_cert_chain(paths[0], paths[-1], _no_password)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            if reason == "KEY_VALUES_MISMATCH":
                raise UsageError("tls cert: the key does not belong to the certificate") from error
            raise UsageError(f"tls cert: not PEM text with a certificate and its key: {error}") from error


def _no_password() -> str:
    """Be asked for a key's password; without this OpenSSL would ask the terminal."""
    raise UsageError("tls key: the key is encrypted; give one without a password")


# --- what a certificate says ----------------------------------------------------------------------


def _at(about: Mapping[str, Any], name: str) -> str:
    return f": {about[name]}" if name in about else ""


def _from(about: Mapping[str, Any]) -> str:
    return f", only from {about['notBefore']} on" if "notBefore" in about else ""


def _names(about: Mapping[str, Any]) -> str:
    found = about.get("subjectAltName", ())
    names = [_canonical_ip(value) if kind == "IP Address" else value for kind, value in found]
    if not names:
        return ", it has no subjectAltName, and a common name does not count" if about else ""
    more = ", …" if len(names) > NAMES_SHOWN else ""
    return f" but for {', '.join(names[:NAMES_SHOWN])}{more}"


def _canonical_ip(text: str) -> str:
    try:
        return str(ip_address(text.strip()))
    except ValueError:
        return text


def _issuer(about: Mapping[str, Any]) -> str:
    parts = {name: value for group in about.get("issuer", ()) for name, value in group}
    name = parts.get("commonName") or parts.get("organizationName")
    return f" ({name})" if name else ""
