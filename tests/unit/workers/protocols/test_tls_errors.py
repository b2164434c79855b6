"""What is reported of OpenSSL's errors, and as which of ours."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import pytest

from reqpool_contract.errors import BadResponse, ConnectFailed, ConnectionLost, PoolError
from reqpool_workers.protocols.tls_errors import NAMES_SHOWN, failure


def openssl(reason: str) -> ssl.SSLError:
    """An error for whose reason CPython has no name."""
    error = ssl.SSLError(1, f"[SSL] {reason.replace('_', ' ').lower()} (_ssl.c:992)")
    error.reason = ""
    return error


def refused(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "unusual"
    return error


def told(
    error: ssl.SSLError, *, has_cert: bool = False, established: bool = False, about: Mapping[str, Any] = {}
) -> PoolError:
    return failure(error, name="db.test", has_cert=has_cert, established=established, certificate=about)


@pytest.mark.parametrize(
    ("reason", "established", "kind"),
    [
        ("UNSUPPORTED_PROTOCOL", False, ConnectFailed),
        ("TLSV1_ALERT_INTERNAL_ERROR", False, ConnectFailed),
        ("TLSV1_ALERT_INTERNAL_ERROR", True, ConnectionLost),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", True, ConnectFailed),  # TLS 1.3: after the handshake
        ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", True, BadResponse),
    ],
)
def test_when_it_fails_decides_as_what(reason: str, established: bool, kind: type[PoolError]) -> None:
    assert type(told(openssl(reason), established=established)) is kind


@pytest.mark.parametrize(
    ("alert", "has_cert", "text"),
    [
        ("BAD_CERTIFICATE", False, "demands a client certificate"),
        ("BAD_CERTIFICATE", True, "refuses our client certificate: it is broken"),
        ("UNKNOWN_CA", True, "does not know the authority"),
        ("HANDSHAKE_FAILURE", False, "or it demands a client certificate"),
        ("HANDSHAKE_FAILURE", True, "no cipher in common"),
        ("UNRECOGNIZED_NAME", False, "no certificate for db.test"),
    ],
)
def test_an_alert_is_explained(alert: str, has_cert: bool, text: str) -> None:
    assert text in told(openssl(f"SSLV3_ALERT_{alert}"), has_cert=has_cert).text


@pytest.mark.parametrize(
    ("code", "about", "text"),
    [
        (10, {"notAfter": "May 1"}, "has expired: May 1"),
        (10, {}, "has expired"),
        (9, {"notBefore": "May 1"}, "not yet valid, only from May 1 on"),
        (18, {}, "self-signed"),
        (20, {"issuer": ((("commonName", "Example CA"),),)}, "an unknown authority (Example CA)"),
        (62, {"subjectAltName": (("DNS", "other.test"),)}, "not for db.test but for other.test"),
        (62, {"subjectAltName": ()}, "not for db.test"),
        (62, {"subject": ()}, "no subjectAltName"),
        (1, {}, "not accepted: unusual"),
    ],
)
def test_a_refused_certificate_is_described(code: int, about: dict[str, Any], text: str) -> None:
    error = told(refused(code), about=about)
    assert type(error) is ConnectFailed
    assert text in error.text


def test_of_many_names_some_are_shown() -> None:
    names = tuple(("DNS", f"n{at}.test") for at in range(NAMES_SHOWN + 1))
    text = told(refused(62), about={"subjectAltName": names}).text
    assert f"n{NAMES_SHOWN - 1}.test, …" in text
    assert f"n{NAMES_SHOWN}.test" not in text
