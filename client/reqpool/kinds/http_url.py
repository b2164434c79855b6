"""URLs of HTTP requests: their upstream and their request line.

The part before the path repeats from request to request, so it is parsed once and cached.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from reqpool_contract.errors import UsageError
from reqpool_contract.host_names import as_served, netloc
from reqpool_contract.masking import PERCENT_ENCODE, without_password
from reqpool_contract.origin_names import NAME, endpoint, named, parse
from reqpool_contract.tls_settings import Tls

from .http_fields import basic
from .kind import Kind
from .route import Route

PORTS = {"http": 80, "https": 443}

_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)([^#]*)(#.*)?", re.DOTALL)
_NAMED_PARTS = re.compile(rf"({NAME.pattern})((?:[/?][^#]*)?)(#.*)?", re.DOTALL)
_UNCHANGED = r"[!$&-;=?-\[\]_a-z~]*"
_PLAIN = re.compile(f"/{_UNCHANGED}(?:%[0-9A-Fa-f]{{2}}{_UNCHANGED})*")
"""A path and query that are sent unchanged."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# Browsers, curl and Python each read http:x, http:/x and ///x differently.
_HOSTLESS = re.compile(r"(?:https?:(?!//)|(?:https?:)?//(?:[/?#]|$))", re.IGNORECASE)
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Unchanged by requests and urllib3, too; everything else is percent-encoded as UTF-8 (RFC 3986 §2.1).
_SAFE = "!#$%&'()*+,/:;=?@[]~"


class HttpTarget(NamedTuple):
    """Where requests go.

    Attributes:
        origin: the origin, without settings; ``@name`` for an upstream given by its name.
        shown: the beginning of its URLs, without user, password and default port.
        host: the value of the Host header; empty if only the worker knows it.
        authorization: the header value for the URL's user and password, or empty.
        idempotent, other: the routes of requests that may be repeated, and of others.
    """

    origin: str
    shown: str
    host: str
    authorization: str
    idempotent: Route
    other: Route


@lru_cache(maxsize=1024)
def place(kind: Kind, prefix: str, tls: Tls | None) -> HttpTarget:
    """Read the part of a URL before its path.

    Args:
        kind: the kind of the routes.
        prefix: ``http://user:password@host:port``, or the name of an upstream.
        tls: for https.

    Raises:
        UsageError: it is wrong; the text says what.
    """
    name = named(prefix)
    if name is not None:
        if tls is not None:
            raise UsageError(f"tls= cannot be given for an upstream called by name ({prefix})")
        return HttpTarget(name, prefix, "", "", Route(kind, (name,), True), Route(kind, (name,), False))
    if "\\" in prefix:  # browsers read it as a slash, which would end the host
        raise UsageError(f"{without_password(prefix)!r} has a backslash in it")
    url = parse(prefix, PORTS)
    authorization = ""
    if url.user is not None or url.password is not None:
        authorization = basic(url.user or "", url.password or "")
    address = netloc(url.host, url.port)
    port = "" if url.port == PORTS[url.scheme] else f":{url.port}"
    public = f"{url.scheme}://{address}"
    secured = tls.settings() if tls is not None and url.scheme == "https" else {}
    origin, settings = endpoint(public, {"tls": secured or None})
    return HttpTarget(
        public,
        f"{url.scheme}://{address.rpartition(':')[0]}{port}",
        f"{netloc(as_served(url.host), url.port).rpartition(':')[0]}{port}",
        authorization,
        Route(kind, (origin,), True, settings),
        Route(kind, (origin,), False, settings),
    )


def split(url: object) -> tuple[str, str, str]:
    """Split a URL into the part before the path, the path with its query, and the fragment with its ``#``.

    Raises:
        UsageError: it is neither ``http://…``, ``https://…`` nor ``name/path`` with an upstream's name.
    """
    if not isinstance(url, str):
        raise UsageError(f"a URL must be a string, not {type(url).__name__}")
    found = _PARTS.fullmatch(url)
    if found is None:
        found = _NAMED_PARTS.fullmatch(url)
        if found is None or (found[2].startswith("//") and found[1].lower() in PORTS):  # http//host
            raise UsageError(
                f"{without_password(url)!r} is not a URL: write http://host/path, https://host/path, or "
                "name/path with the name of an upstream in the broker's config"
            )
    prefix, path, fragment = found.groups()
    fragment = fragment or ""
    if "@" in url and ("@" in path or "@" in fragment):
        _check_host(url, prefix, path)
    return prefix, path, fragment


def _check_host(url: str, prefix: str, path: str) -> None:
    """Check that an ``@`` after the host does not end a password with a character that ended the host early.

    A path may contain an ``@``. But a fragment is never sent (RFC 9110 §4.2.5), so one that begins where the
    path should would go unnoticed, and the error for a bad host would show the password.

    Raises:
        UsageError: it seems to.
    """
    if named(prefix) is not None:
        return
    good = bool(path) and not prefix.endswith(":")
    if good:
        try:
            parse(prefix, PORTS)
        except UsageError:
            good = False
    if not good:
        raise UsageError(f"{without_password(url)!r} has an @ in the wrong place; {PERCENT_ENCODE}")


def joined(here: str, reference: str) -> str:
    """Return the absolute URL of a reference relative to the URL ``here`` (RFC 3986 §5.2).

    Its path may have dot segments, which :func:`target` resolves.

    Raises:
        UsageError: it has a scheme or ``//`` but no host.
    """
    if _HOSTLESS.match(reference):
        raise UsageError(f"{without_password(reference)!r} has no host")
    if _SCHEME.match(reference):
        return reference
    prefix, path, _ = split(here)
    path, mark, query = path.partition("?")
    if reference.startswith("//"):
        return f"{prefix.partition('//')[0]}{reference}"
    if reference.startswith("/"):
        return f"{prefix}{reference}"
    if reference.startswith("?"):
        return f"{prefix}{path}{reference}"
    if not reference or reference.startswith("#"):
        return f"{prefix}{path}{mark}{query}{reference}"
    return f"{prefix}{path.rpartition('/')[0]}/{reference}"


def target(path: str, params: object = None) -> str:
    """Encode path and query for the request line, in ASCII.

    Args:
        path: with its query; may be empty.
        params: added to the query; see :func:`query`.

    Raises:
        UsageError: there are control characters, or ``params`` is wrong.
    """
    if params is not None:
        more = query(params)
        if more:
            mark = "?" if "?" not in path else "" if path.endswith(("?", "&")) else "&"
            path = f"{path}{mark}{more}"
    if _PLAIN.fullmatch(path) and "/." not in path:
        return path
    if _CONTROL.search(path):
        raise UsageError(f"the URL's path has a control character in it: {without_password(path)!r}")
    if not path.startswith("/"):
        path = f"/{path}"
    try:
        path = quote(_LONE_PERCENT.sub("%25", path), safe=_SAFE).replace("#", "%23")
    except UnicodeEncodeError as error:
        raise UsageError(f"the URL's path cannot be encoded as UTF-8: {without_password(path)!r}") from error
    path, mark, rest = path.partition("?")
    return f"{_without_dots(path)}{mark}{rest}" if "/." in path else f"{path}{mark}{rest}"


def query(params: object) -> str:
    """Encode parameters as a query or a form (``application/x-www-form-urlencoded``).

    Args:
        params: a mapping, or a list of pairs. A value is str, bytes, a number, or a list or tuple of these,
            which repeats the name; a name with the value None is omitted. Or a str or bytes, already encoded.

    Raises:
        UsageError: it is anything else.
    """
    if isinstance(params, str):
        return params
    if isinstance(params, bytes):
        return quote(params, safe=_SAFE)
    return form(params, "params")


def form(given: object, what: str) -> str:
    """Encode names and values as ``application/x-www-form-urlencoded``; see :func:`query`.

    Raises:
        UsageError: as :func:`pairs`, and for a str that cannot be encoded as UTF-8.
    """
    try:
        return urlencode(pairs(given, what))
    except UnicodeEncodeError as error:
        raise UsageError(f"{what}= cannot be encoded as UTF-8: {error}") from error


def pairs(given: object, what: str) -> list[tuple[str | bytes, str | bytes]]:
    """Return the names and values of a query, a form or a multipart body, one pair for each value.

    Raises:
        UsageError: they are not names and values; the text contains ``what`` and the name.
    """
    items: Iterable[Any]
    if isinstance(given, Mapping):
        items = given.items()
    elif isinstance(given, list | tuple):
        items = given
    else:
        raise UsageError(f"{what}= must be a mapping or a list of pairs, not {type(given).__name__}")
    found: list[tuple[str | bytes, str | bytes]] = []
    for item in items:
        try:
            name, value = item
        except (TypeError, ValueError) as error:
            raise UsageError(f"{what}= has an item that is not a pair: {type(item).__name__}") from error
        if not isinstance(name, str | bytes):
            raise UsageError(f"{what}= has a name that is not a string: {name!r}")
        for one in value if isinstance(value, list | tuple) else (value,):
            # By the rules of the base type: str() of an enum's member is its name.
            if isinstance(one, str):
                found.append((name, str.__str__(one)))
            elif isinstance(one, bytes):
                found.append((name, one))
            elif isinstance(one, bool):
                found.append((name, str(one)))
            elif isinstance(one, int):
                try:
                    found.append((name, int.__repr__(one)))
                except ValueError as error:  # sys.set_int_max_str_digits
                    raise UsageError(f"{what}= {name!r} has a number that is too long: {error}") from error
            elif isinstance(one, float):
                found.append((name, float.__repr__(one)))
            elif one is not None:
                raise UsageError(f"{what}= {name!r} has a value of type {type(one).__name__}: give a str")
    return found


def _without_dots(path: str) -> str:
    """Resolve ``.`` and ``..`` (RFC 3986 §5.2.4)."""
    segments: list[str] = []
    parts = path.split("/")[1:]
    for part in parts:
        if part == "..":
            del segments[-1:]
        elif part != ".":
            segments.append(part)
    if parts[-1] in (".", ".."):
        segments.append("")
    return "/" + "/".join(segments)
