"""Origins: the one canonical name of what a connection leads to, and the settings that make it.

``scheme://[user@]host:port[/path][?variant][#digest]``: everything that makes a connection what it is, so
that requests share connections exactly when all of it is equal. Secrets (passwords, tokens, keys) and TLS
material are not in it but in the *settings*, which travel beside it once per batch; a digest of the settings
stands for them, so that two users with different passwords never share a connection. Whoever sees the name
(``status`` shows it) can test guesses against the digest, so it is made slow to compute: scrypt (RFC 7914),
some 10 ms and 4 MiB a guess, salted with the rest of the name.

An origin ``@name[?variant]`` stands for an upstream of the broker's ``reqpool.toml``; the broker replaces it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgpack

from .. import wire
from ..errors import UsageError
from . import Endpoint

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
"""What an upstream of ``reqpool.toml`` may be called."""
DIGEST_BYTES = 10
_SCRYPT_N, _SCRYPT_R = 1 << 12, 8  # 128 * N * r = 4 MiB


@dataclass(frozen=True)
class Tls:
    """How a connection is secured.

    The files are read where this is used first, in the app's own process, and their contents travel: workers
    need not see them. They are read once in a process's life.

    Attributes:
        ca: path of a PEM file with the authorities to trust; None: the system's.
        cert: path of a PEM file with a certificate (chain) of our own, and its key if ``key`` is None.
        key: path of a PEM file with its key, unencrypted.
        verify: False: take any certificate. Then anybody in between can read and write.
        server_name: the name to ask for and to find in the certificate; None: the URL's host.
    """

    ca: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    verify: bool = True
    server_name: str | None = None

    def __post_init__(self) -> None:
        """Check what type they have: it goes into caches, and to the workers.

        Raises:
            UsageError: if one is something else.
        """
        for name in ("ca", "cert", "key"):
            path = getattr(self, name)
            if path is not None and not isinstance(path, str | os.PathLike):
                raise UsageError(f"tls {name}= is the path of a PEM file, not {type(path).__name__}")
        if type(self.verify) is not bool:
            raise UsageError(f"tls verify={self.verify!r}: True or False")
        if self.server_name is not None and not (
            isinstance(self.server_name, str) and self.server_name.isprintable()
        ):
            raise UsageError(f"tls server_name={self.server_name!r} is no host name")

    def settings(self) -> dict[str, Any]:
        """Return it as the worker halves take it: contents instead of paths, only what is not default.

        Raises:
            UsageError: if a file cannot be read, or they are too large.
        """
        if self.key is not None and self.cert is None:
            raise UsageError("tls: a key without a certificate: give cert=, too")
        about: dict[str, Any] = {
            name: _read(name, path)
            for name, path in (("ca", self.ca), ("cert", self.cert), ("key", self.key))
            if path is not None
        }
        sizes = {name: len(text.encode()) for name, text in about.items()}
        if sum(sizes.values()) > wire.MAX_SETTINGS_BYTES:
            files = ", ".join(
                f"{name}={str(getattr(self, name))!r} has {n} bytes" for name, n in sizes.items()
            )
            raise UsageError(f"tls: {files}; at most {wire.MAX_SETTINGS_BYTES} bytes in all are allowed")
        if not self.verify:
            about["verify"] = False
        if self.server_name is not None:
            about["server_name"] = self.server_name
        return about


def _read(name: str, path: str | os.PathLike[str]) -> str:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read(wire.MAX_SETTINGS_BYTES + 1)
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "not a PEM file"
        raise UsageError(f"tls {name}={str(path)!r}: {reason}") from error
    if len(text) > wire.MAX_SETTINGS_BYTES:
        size = max(len(text), os.path.getsize(path))
        most = wire.MAX_SETTINGS_BYTES
        raise UsageError(f"tls {name}={str(path)!r} has {size} bytes, at most {most} are allowed")
    if "-----BEGIN" not in text:
        raise UsageError(f"tls {name}={str(path)!r} is not a PEM file")
    return text


class Url(NamedTuple):
    """A URL's parts, checked.

    Attributes:
        scheme: in lower case.
        user, password: percent-decoded; None if absent.
        host: canonical: lower case, IDNA, IPv6 compressed and without brackets; empty if the URL names none.
        port: the scheme's default if the URL names none.
        path: as it stands, with its first slash; empty if absent.
        query: as it stands, without the question mark.
    """

    scheme: str
    user: str | None
    password: str | None
    host: str
    port: int
    path: str
    query: str


def parse(url: object, ports: Mapping[str, int]) -> Url:
    """Read and check a URL.

    Args:
        url: e.g. ``"redis://user:secret@host:6379/0"``.
        ports: the schemes it may have, each with its default port; 0 if its URLs name no host.

    Raises:
        UsageError: if it is wrong; the text names what, and never the password.
    """
    if not isinstance(url, str):
        raise UsageError(f"a URL is a string, not {type(url).__name__}")
    allowed = ", ".join(f"{scheme}://" for scheme in ports)
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in ports:
        raise UsageError(f"{without_password(url)!r} is no URL of {allowed}")
    if any(character <= " " or character == "\x7f" for character in url):
        raise UsageError(f"{without_password(url)!r} has a space or a control character in it")
    if any("\ud800" <= character <= "\udfff" for character in url):
        raise UsageError(f"{without_password(url)!r} cannot be written in UTF-8")
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{without_password(url)!r}: {error}") from error
    host = canonical_host(parts.hostname or "", url) if parts.hostname else ""
    if ports[scheme] and not host:
        raise UsageError(f"{without_password(url)!r} has no host")
    if port == 0:
        raise UsageError(f"{without_password(url)!r}: port 0 cannot be connected to")
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return Url(scheme, user or None, password, host, port or ports[scheme], parts.path, parts.query)


def without_password(url: str) -> str:
    """Return a URL fit to be shown."""
    return re.sub(r"(?<=://)([^/?#@]*?):[^/?#]*@", r"\1:***@", url)


def canonical_host(host: str, url: str = "") -> str:
    """Write a host in one way: an address compressed, a name in lower case and IDNA, without a final dot.

    Raises:
        UsageError: if it is neither.
    """
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    about = f" in {without_password(url)!r}" if url else ""
    try:
        name = host.rstrip(".").encode("idna").decode("ascii").lower() if not host.isascii() else host.lower()
    except UnicodeError as error:
        raise UsageError(f"{host!r}{about} is no host name: {error}") from error
    name = name.rstrip(".")
    if len(name) > 253 or not all(
        re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", label) for label in name.split(".")
    ):
        raise UsageError(f"{host!r}{about} is no host name")
    if name.replace(".", "").isdecimal():
        raise UsageError(f"{host!r}{about} is not an IPv4 address")
    return name


def netloc(host: str, port: int) -> str:
    """Write host and port as they stand in an origin."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def endpoint(public: str, settings: Mapping[str, Any]) -> Endpoint:
    """Join an origin's public part and its settings.

    Args:
        public: ``scheme://[user@]host:port[/path][?variant]``.
        settings: what msgpack takes; by convention ``password`` str, ``token`` str, ``tls`` as
            :meth:`Tls.settings` makes it. What is None is left out.

    Raises:
        UsageError: if the wire could not carry them (docs/protocol.md#limits).
    """
    given = {name: settings[name] for name in sorted(settings) if settings[name] is not None}
    origin, packed = public, b""
    if given:
        try:
            packed = msgpack.packb(given)
        except (TypeError, ValueError, OverflowError) as error:
            # Without the cause: it holds what is secret.
            reason = "it is not UTF-8" if isinstance(error, UnicodeError) else type(error).__name__
            raise UsageError(f"one of {', '.join(given)} cannot be sent: {reason}") from None
        if len(packed) > wire.MAX_SETTINGS_BYTES:
            raise UsageError(
                f"{', '.join(given)} of an upstream have {len(packed)} bytes together, at most "
                f"{wire.MAX_SETTINGS_BYTES} are allowed"
            )
        origin = f"{public}#{_digest(packed, public.partition('?')[0])}"
    if len(origin) > wire.MAX_ORIGIN_CHARS:
        raise UsageError(
            f"{public[:60]!r}… and what stands for its credentials have {len(origin)} characters, at most "
            f"{wire.MAX_ORIGIN_CHARS} are allowed: host, user and path are too long"
        )
    return Endpoint(origin, packed)


def belongs(origin: str, settings: bytes) -> bool:
    """Are these the settings that an origin's digest stands for (none, if it has no digest)?"""
    public, _, digest = origin.partition("#")
    if not settings or not digest:
        return not settings and not digest
    # As bytes: of text compare_digest takes ASCII alone, and anybody may have written this.
    return hmac.compare_digest(digest.encode(), _digest(settings, public.partition("?")[0]).encode())


@lru_cache(maxsize=256)
def _digest(packed: bytes, public: str) -> str:
    """Digest settings; the variant is not part of ``public``, so that all variants have the same."""
    return hashlib.scrypt(
        packed, salt=public.encode(), n=_SCRYPT_N, r=_SCRYPT_R, p=1, dklen=DIGEST_BYTES
    ).hex()


def named(target: object) -> str | None:
    """Return the origin of an upstream that is called by its name in ``reqpool.toml``; None if it is no
    name."""
    return f"@{target}" if isinstance(target, str) and NAME.fullmatch(target) else None


def upstream_of(origin: str) -> str:
    """Return what an origin's limits are counted by: scheme, host and port, whoever asks for whatever there.

    Where the URL names no host (a Unix socket) it is scheme and path.
    """
    scheme, separator, rest = origin.partition("://")
    if not separator:
        return origin
    place = rest.partition("#")[0].partition("?")[0]
    named, slash, path = place.partition("/")
    host = named.rpartition("@")[2]
    return f"{scheme}://{host or slash + path}"
