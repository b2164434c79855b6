"""Certificates for tests: an authority, and what it issued, good and bad, as PEM files in a folder.

    certificates = make(tmp_path)
    server.load_cert_chain(*certificates.server)
    pool.http("GET", url, tls=reqpool.Tls(ca=str(certificates.ca)))

Made anew for each folder, in some milliseconds: the keys are elliptic ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

GOOD_NAMES = ("localhost", "*.service.test", "127.0.0.1", "::1")
WRONG_NAMES = ("somebody.else.test", "*.else.test")
IP_NAMES = ("127.0.0.1", "::1")
KEY_PASSWORD = b"secret"


class Pair(NamedTuple):
    """Paths of a certificate and its key, both PEM."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """What :func:`make` made. All paths; the servers' are for :data:`GOOD_NAMES` unless said otherwise.

    Attributes:
        ca: the authority that issued everything but the strangers' and the self-signed one.
        server: a good one.
        expired, future: no longer and not yet valid.
        wrong_name: for :data:`WRONG_NAMES`.
        common_name, common_address: ``localhost`` and 127.0.0.1 are common names, without a
            subjectAltName.
        partial: for ``local*`` and ``*``, which are wildcards that match nothing.
        ip_only: for :data:`IP_NAMES`, no name.
        self_signed: issued by itself.
        client: for a client, common name ``client``.
        encrypted_client: the same with its key under a password.
        stranger_ca, stranger, stranger_client: another authority, and a server's and a client's from it.
    """

    ca: Path
    server: Pair
    expired: Pair
    future: Pair
    wrong_name: Pair
    common_name: Pair
    common_address: Pair
    partial: Pair
    ip_only: Pair
    self_signed: Pair
    client: Pair
    encrypted_client: Pair
    stranger_ca: Path
    stranger: Pair
    stranger_client: Pair


def make(folder: Path) -> Certificates:
    """Make all of them in a folder."""
    authority = Authority("reqpool test authority")
    stranger = Authority("somebody's authority")
    client = authority.issue("client", client=True)
    return Certificates(
        ca=_write(folder / "ca.pem", authority.pem),
        server=_save(folder, "server", authority.issue(*GOOD_NAMES)),
        expired=_save(folder, "expired", authority.issue(*GOOD_NAMES, from_days=-20, to_days=-10)),
        future=_save(folder, "future", authority.issue(*GOOD_NAMES, from_days=10, to_days=20)),
        wrong_name=_save(folder, "wrong-name", authority.issue(*WRONG_NAMES)),
        common_name=_save(folder, "common-name", authority.issue("localhost", alternative=False)),
        common_address=_save(folder, "common-address", authority.issue("127.0.0.1", alternative=False)),
        partial=_save(folder, "partial", authority.issue("local*", "*")),
        ip_only=_save(folder, "ip-only", authority.issue(*IP_NAMES)),
        self_signed=_save(folder, "self-signed", Authority(GOOD_NAMES[0]).own(*GOOD_NAMES)),
        client=_save(folder, "client", client),
        encrypted_client=_save(folder, "encrypted-client", client, KEY_PASSWORD),
        stranger_ca=_write(folder / "stranger-ca.pem", stranger.pem),
        stranger=_save(folder, "stranger", stranger.issue(*GOOD_NAMES)),
        stranger_client=_save(folder, "stranger-client", stranger.issue("client", client=True)),
    )


def bundle(path: Path, size_bytes: int, first: str = "") -> Path:
    """Write a PEM file of so many bytes: ``first``, copies of one authority, and padding where none fits."""
    one = Authority("one of the bundle").pem.decode()
    text = first + one * ((size_bytes - len(first)) // len(one))
    path.write_text(text + "#" * (size_bytes - len(text)))
    return path


class Authority:
    """A certificate authority with a key of its own."""

    def __init__(self, name: str) -> None:
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(self._name, self._name, self._key, -30, 30)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = builder.sign(self._key, SHA256())

    @property
    def pem(self) -> bytes:
        """The authority's own certificate."""
        return self._certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        *names: str,
        client: bool = False,
        alternative: bool = True,
        from_days: float = -1,
        to_days: float = 30,
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Issue a certificate.

        Args:
            names: host names, with wildcards, and addresses; the first is the common name, too.
            client: for a client instead of a server.
            alternative: False leaves out subjectAltName: only the common name is left.
            from_days, to_days: when it begins and ceases to be valid, from now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(names[0]), self._name, key, from_days, to_days)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if alternative:
            builder = builder.add_extension(_alternative_names(names), critical=False)
        return builder.sign(self._key, SHA256()), key

    def own(self, *names: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Issue a certificate for these names to itself: a self-signed one."""
        builder = _builder(self._name, self._name, self._key, -1, 30)
        builder = builder.add_extension(_alternative_names(names), critical=False)
        return builder.sign(self._key, SHA256()), self._key


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, from_days: float, to_days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=from_days))
        .not_valid_after(now + timedelta(days=to_days))
    )


def _alternative_names(names: tuple[str, ...]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [x509.DNSName(name) if (ip := _ip(name)) is None else x509.IPAddress(ip) for name in names]
    )


def _ip(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _save(
    folder: Path,
    name: str,
    issued: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    password: bytes | None = None,
) -> Pair:
    certificate, key = issued
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return Pair(
        _write(folder / f"{name}.pem", certificate.public_bytes(Encoding.PEM)),
        _write(folder / f"{name}.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)),
    )


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
