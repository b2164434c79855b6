"""What TLS connections of one route share: trusted authorities, our certificate, protocols to offer.

A certificate chain and its key can be loaded only from files; a memfd is a file that no other user can open
and that is gone with its last descriptor (memfd_create(2)).
"""

from __future__ import annotations

import contextlib
import os
import ssl
from functools import lru_cache

from reqpool_contract.errors import UsageError

CONTEXTS = 64
"""Contexts that are cached; to make one takes some 25 ms where the system's authorities are read."""


@lru_cache(maxsize=CONTEXTS)
def context_of(
    verify: bool, ca: str | None, cert: str | None, key: str | None, alpn: tuple[str, ...]
) -> ssl.SSLContext:
    """Return the context for a route's settings; the same one for the same settings.

    Args:
        verify: whether the server's certificate must be valid.
        ca: PEM text of the authorities that are trusted; None: those of the system.
        cert: PEM text of our certificate, with its key if ``key`` is None.
        key: PEM text of its key.
        alpn: protocols to offer, the preferred one first.

    Raises:
        UsageError: if a text is not PEM, or the key does not fit.
        OSError: if the process is short of file descriptors.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # OpenSSL accepts a common name if there is no alternative name; others no longer do (RFC 9525 §2).
    context.hostname_checks_common_name = False
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        # OpenSSL ignores a file that it cannot open, and the context is cached: without a descriptor for it
        # no authority would be trusted from then on.
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
        # All that is given is trusted, including an intermediate authority or the server's own certificate.
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
    """Refuse to give a key's password; without this OpenSSL would ask at the terminal."""
    raise UsageError("tls key: the key is encrypted; give one without a password")
