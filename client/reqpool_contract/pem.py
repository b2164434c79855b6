"""PEM files (RFC 7468): the blocks that a worker needs, checked.

Only these blocks are used. The text between blocks is for human readers, in any encoding, and a private key
in a file of authorities must not be sent to workers.
"""

from __future__ import annotations

import os
import re
import ssl
from functools import lru_cache

from .errors import UsageError
from .wire import MAX_SETTINGS_BYTES

_MARK = re.compile(rb"-----(?:BEGIN ([A-Z0-9 ]{1,64})-----(?=\s)|END ([A-Z0-9 ]{1,64})-----)")
_CERTIFICATE = re.compile(r"(?:X509 )?CERTIFICATE")
_KEY = re.compile(r"(?:[A-Z0-9]+ )?PRIVATE KEY")
_ENCRYPTED = ("ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED")
"""PKCS #8, and the older form of OpenSSL (RFC 1421 §4.6.1.1)."""

MAX_FILE_BYTES = MAX_SETTINGS_BYTES
"""Largest file, including the text between blocks."""

Path = str | os.PathLike[str]


def authorities(path: Path) -> str:
    """Read the certificates to trust.

    Raises:
        UsageError: the file cannot be read, or contains no certificate, or a broken one.
    """
    text = _certificates("ca", path)
    why = _why_not_trusted(text)
    if why:
        raise UsageError(f"tls ca={os.fspath(path)!r} has a certificate that cannot be read: {why}")
    return text


def own(cert: Path, key: Path | None) -> tuple[str, str | None]:
    """Read the client's certificate (chain) and its key.

    Args:
        cert: path of the certificate's file.
        key: path of the key's file; None: it is in the same file.

    Returns:
        Both as text; None for the key if the first text contains it.

    Raises:
        UsageError: one of them is missing, encrypted or unreadable, or the key belongs to another
            certificate.
    """
    chain = _certificates("cert", cert)
    name, path = ("cert", cert) if key is None else ("key", key)
    keys = [block for label, block in _blocks(name, path) if _KEY.fullmatch(label)]
    if not keys:
        there = "; give tls key= as well" if key is None else ""
        raise UsageError(f"tls {name}={os.fspath(path)!r} has no private key in it{there}")
    if any(mark in keys[0] for mark in _ENCRYPTED):
        raise UsageError(f"tls {name}={os.fspath(path)!r}: the key is encrypted; give one without a password")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, "")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        if reason == "KEY_VALUES_MISMATCH":
            reason = "the key does not belong to the certificate"
        raise UsageError(f"tls cert={os.fspath(cert)!r}: not a certificate and its key ({reason})") from error
    return (chain + keys[0], None) if key is None else (chain, keys[0])


def _certificates(name: str, path: Path) -> str:
    found = _blocks(name, path)
    certificates = [block for label, block in found if _CERTIFICATE.fullmatch(label)]
    if not certificates:
        others = ", ".join(sorted({label for label, _ in found}))
        instead = f", but {others}" if others else ": a PEM file has lines like -----BEGIN CERTIFICATE-----"
        raise UsageError(f"tls {name}={os.fspath(path)!r} has no certificate in it{instead}")
    return "".join(certificates)


def _blocks(name: str, path: Path) -> list[tuple[str, str]]:
    """Return the label and the text of each block in a file."""
    if "-----BEGIN" in os.fsdecode(path):
        raise UsageError(f"tls {name}= must be the path of a PEM file, not its contents")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"tls {name}={os.fspath(path)!r}: {reason}") from error
    if len(data) > MAX_FILE_BYTES:
        size = max(len(data), os.path.getsize(path))
        raise UsageError(
            f"tls {name}={os.fspath(path)!r} has {size} bytes; at most {MAX_FILE_BYTES} are allowed"
        )
    # Mark by mark: a pattern for whole blocks would search the whole file for the end of each.
    blocks = []
    label, start = b"", 0
    for mark in _MARK.finditer(data):
        begun, ended = mark.groups()
        if begun == label:
            continue  # the block was cut off, and is broken together with what follows
        if begun is None and ended == label:
            text = data[start : mark.end()].decode("ascii", "replace").replace("\r", "")
            blocks.append((label.decode("ascii"), text + "\n"))
        label, start = begun or b"", mark.start()
    return blocks


@lru_cache(maxsize=64)
def _why_not_trusted(text: str) -> str:
    """Return why OpenSSL refuses certificates; empty if it accepts them. Takes 20 ms for a system's 150."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        return str(getattr(error, "reason", None) or error)
    return ""
