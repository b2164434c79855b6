"""What is reported of a TLS failure, and which error that is."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from reqpool_contract.errors import BadResponse, ConnectFailed, ConnectionLost, PoolError

NAMES_SHOWN = 8

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


def failure(
    error: ssl.SSLError, *, name: str, has_cert: bool, established: bool, certificate: Mapping[str, Any]
) -> PoolError:
    """Return the error to report for one of OpenSSL's.

    Args:
        error: OpenSSL's.
        name: the name that the server's certificate must be for.
        has_cert: whether we have a certificate.
        established: whether the handshake is over.
        certificate: fields of the server's certificate, as ``SSLSocket.getpeercert`` has them; may be empty.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectFailed(_bad_certificate(error, name, certificate))
    # Not every reason has a name in CPython's table; OpenSSL's text has the same words.
    reason = error.reason or _AROUND_TEXT.sub("", str(error)).upper().replace(" ", "_")
    _, is_alert, alert = reason.partition("_ALERT_")
    if is_alert:
        text = _alert(alert, has_cert=has_cert)
        if text is not None:
            return ConnectFailed(text)
    said = reason.replace("_", " ").lower()
    if not established:
        why = _why_no_handshake(reason, name, has_cert=has_cert)
        return ConnectFailed(why or f"the TLS handshake failed: {said}")
    if is_alert:
        return ConnectionLost(f"the peer aborted TLS: {said}")
    return BadResponse(f"the peer's TLS is broken: {said}")


def _bad_certificate(error: ssl.SSLCertVerificationError, name: str, about: Mapping[str, Any]) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return f"the server's certificate has expired{_at(about, 'notAfter')}"
    if code == _NOT_YET_VALID:
        return f"the server's certificate is not yet valid{_from(about)}"
    if code in _OTHER_NAME:
        return f"the server's certificate is not for {name}{_names(about)}"
    if code == _SELF_SIGNED:
        return "the server's certificate is self-signed; to trust it, give it as tls ca"
    if code in _UNKNOWN_AUTHORITY:
        authority = f"an unknown authority{_issuer(about)}"
        return f"the server's certificate is from {authority}; to trust that authority, give tls ca"
    return f"the server's certificate is not accepted: {error.verify_message}"


def _alert(alert: str, *, has_cert: bool) -> str | None:
    """Describe an alert about our certificate; None if it is about something else."""
    missing = "the server demands a client certificate; give tls cert and key"
    if alert in ("CERTIFICATE_REQUIRED", "NO_CERTIFICATE"):
        return missing
    if alert in _CERTIFICATE_ALERTS and has_cert:
        return f"the server refuses our client certificate: {_CERTIFICATE_ALERTS[alert]}"
    if alert == "BAD_CERTIFICATE":
        return missing  # as TLS 1.2 servers that demand one may say (RFC 5246 §7.4.6)
    return None


def _why_no_handshake(reason: str, name: str, *, has_cert: bool) -> str | None:
    if reason.endswith(("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW")):
        return "no TLS version in common: the server does not support 1.2 or newer"
    if reason.endswith("UNRECOGNIZED_NAME"):
        return f"the server has no certificate for {name} (TLS: unrecognized name)"
    if reason.endswith("NO_APPLICATION_PROTOCOL"):
        return "no application protocol in common (TLS: ALPN)"
    if reason.endswith(("ALERT_HANDSHAKE_FAILURE", "INSUFFICIENT_SECURITY")):
        remedy = "" if has_cert else ", or it demands a client certificate (tls cert and key)"
        return f"the server aborted the TLS handshake: no cipher in common{remedy}"
    if reason.endswith(
        ("WRONG_VERSION_NUMBER", "RECORD_LENGTH", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE")
    ):
        return f"the server does not speak TLS ({reason.replace('_', ' ').lower()})"
    return None


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
