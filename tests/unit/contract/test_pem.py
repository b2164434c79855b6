"""PEM files: their blocks and nothing else, and what is wrong with them at the call."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from reqpool_contract.errors import UsageError
from reqpool_contract.tls_settings import Tls
from reqpool_workers.protocols.tls_engine import TlsEngine as WorkerTls
from support import certificates
from support.certificates import Certificates


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("pem"))


def file(folder: Path, data: bytes) -> Path:
    path = folder / "file.pem"
    path.write_bytes(data)
    return path


def works(settings: dict[str, Any]) -> bool:
    """Does a worker take it?"""
    return bool(WorkerTls(settings, "h.test"))


def test_comments_may_be_in_any_encoding(made: Certificates, tmp_path: Path) -> None:
    plain, other = made.ca.read_bytes(), made.stranger_ca.read_bytes()
    for comment in (
        "# Műszaki tanúsítvány\n".encode(),
        "# Größe\n".encode("latin-1"),
        b"\xef\xbb\xbf# BOM\n",
        b"\0\xff\n",
    ):
        settings = Tls(ca=file(tmp_path, comment + plain + comment + other)).settings()
        assert settings == {"ca": (plain + other).decode()}
        assert works(settings)


def test_a_mark_before_the_first_block_and_other_line_ends_do_not_matter(
    made: Certificates, tmp_path: Path
) -> None:
    plain = made.ca.read_bytes()
    assert Tls(ca=file(tmp_path, b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))).settings() == {
        "ca": plain.decode()
    }
    assert Tls(ca=file(tmp_path, plain.rstrip(b"\n"))).settings() == {"ca": plain.decode()}


def test_a_key_in_a_file_of_authorities_does_not_travel(made: Certificates, tmp_path: Path) -> None:
    both = made.server.key.read_bytes() + made.ca.read_bytes()
    assert Tls(ca=file(tmp_path, both)).settings() == {"ca": made.ca.read_text()}


def test_certificate_and_key_may_be_in_one_file_in_any_order(made: Certificates, tmp_path: Path) -> None:
    cert, key = made.client
    for data in (cert.read_bytes() + key.read_bytes(), "ü\n".encode() + key.read_bytes() + cert.read_bytes()):
        settings = Tls(cert=file(tmp_path, data)).settings()
        assert settings == {"cert": cert.read_text() + key.read_text()}
        assert works(settings)
    apart = Tls(cert=cert, key=key).settings()
    assert apart == {"cert": cert.read_text(), "key": key.read_text()}
    assert works(apart)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "has no certificate in it: a PEM file has lines like -----BEGIN CERTIFICATE-----"),
        (b"\x30\x82\x01\x0a\x02\x82", "has no certificate in it: a PEM file"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "has no certificate in it: a PEM file"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "a certificate that cannot be read",
        ),
        (
            b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
            "a certificate that cannot be read",
        ),
        (
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "has no certificate in it, but PRIVATE KEY",
        ),
        (
            b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            "has no certificate in it, but CERTIFICATE REQUEST",
        ),
    ],
)
def test_a_file_without_authorities_is_refused_at_the_call(data: bytes, says: str, tmp_path: Path) -> None:
    path = file(tmp_path, data)
    with pytest.raises(UsageError, match=f"^tls ca='{path}' .*{says}"):
        Tls(ca=path).settings()


def test_one_broken_certificate_among_good_ones_is_told(made: Certificates, tmp_path: Path) -> None:
    lines = made.ca.read_bytes().splitlines(keepends=True)
    broken = b"".join([*lines[:2], *lines[3:]])
    with pytest.raises(UsageError, match="a certificate that cannot be read"):
        Tls(ca=file(tmp_path, made.stranger_ca.read_bytes() + broken)).settings()


def test_what_is_wrong_with_our_own_is_told_at_the_call(made: Certificates) -> None:
    cert, key = made.client
    for tls, says in (
        (Tls(cert=cert), r"tls cert='.*' has no private key in it; give tls key= as well"),
        (Tls(cert=key), r"tls cert='.*' has no certificate in it, but PRIVATE KEY"),
        (Tls(cert=cert, key=cert), r"tls key='.*' has no private key in it$"),
        (Tls(cert=cert, key=made.encrypted_client.key), r"tls key='.*': the key is encrypted"),
        (Tls(cert=cert, key=made.server.key), r"the key does not belong to the certificate"),
        (Tls(cert=cert, key="/nowhere/a.key"), r"tls key='/nowhere/a.key': No such file"),
        (Tls(cert="/", key=key), r"tls cert='/': Is a directory"),
        (Tls(ca="a\0b"), r"tls ca='a\\x00b': embedded null byte"),
    ):
        with pytest.raises(UsageError, match=says):
            tls.settings()


@pytest.mark.skipif(not ssl.get_default_verify_paths().cafile, reason="no file of authorities here")
def test_the_systems_own_file_is_taken() -> None:
    path = ssl.get_default_verify_paths().cafile
    assert works(Tls(ca=path).settings())


def test_a_file_of_beginnings_is_read_once(tmp_path: Path) -> None:
    # Searched from each to the end of the file these take minutes.
    for data in (
        b"-----BEGIN A-----\n" * 50_000,
        b"".join(b"-----BEGIN %d-----\n" % i for i in range(40_000)),
    ):
        with pytest.raises(UsageError, match="no certificate"):
            Tls(ca=file(tmp_path, data)).settings()


def test_a_block_that_was_cut_off_is_no_certificate(made: Certificates, tmp_path: Path) -> None:
    plain = made.ca.read_bytes()
    with pytest.raises(UsageError, match="cannot be read"):
        Tls(ca=file(tmp_path, plain[:-40] + b"\n" + plain)).settings()
    other = b"-----BEGIN X509 CRL-----\nAAAA\n" + plain
    assert works(Tls(ca=file(tmp_path, other)).settings())
