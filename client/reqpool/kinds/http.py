"""Client half of kind ``http``: a request to an HTTP/1.1 server. Answers are in ``http_response``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from typing import Any, ClassVar, NamedTuple

from reqpool_contract import wire
from reqpool_contract.errors import BadResponse, UsageError
from reqpool_contract.host_names import netloc
from reqpool_contract.masking import without_password
from reqpool_contract.origin_names import Endpoint, endpoint, parse
from reqpool_contract.payloads.http import CLOSE, FOLLOW, HEAD, HEADER, NAMED, NO_CREDENTIALS, NO_HOST
from reqpool_contract.tls_settings import Tls

from .http_body import body as make_body
from .http_content import ACCEPTED
from .http_fields import Fields, authorization, basic, bearer, connection_options, field, fields, is_token
from .http_response import END, HttpResponse
from .http_url import PORTS, HttpTarget, joined, place, split, target
from .kind import Kind
from .route import Asked, Followed, Route, with_idempotence

DEFAULT_MAX_BYTES = 16 << 20
LARGEST_MAX_BYTES = wire.MAX_ANSWER_BYTES
"""Largest answer that the pool carries."""
MAX_REDIRECTS = 20
"""The limit of browsers (WHATWG Fetch, HTTP-redirect fetch)."""

IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
"""RFC 9110 §9.2.2."""
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
"""Methods for which a server expects a length, even if it is 0 (RFC 9110 §8.6)."""
_OF_ONE_ORIGIN = frozenset(("authorization", "cookie", "proxy-authorization", "host"))
"""Fields that must not be sent to another server."""
_OF_A_BODY = frozenset(("content-encoding", "content-language", "content-location", "content-type"))

_OF_THE_CONNECTION = b"authorization: negotiate"
"""Start of a field that authenticates the connection, not only the request."""

_DEFAULTS = {
    "user-agent": f"User-Agent: reqpool/{version('reqpool')}\r\n".encode(),
    "accept": b"Accept: */*\r\n",
    "accept-encoding": f"Accept-Encoding: {ACCEPTED}\r\n".encode(),
}
_ALL_DEFAULTS = b"".join(_DEFAULTS.values())

_HOST = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_IN_URLS = re.compile(r"[\x00-\x1f\x7f-\xff]")

_CACHED_URL_CHARACTERS = 1_000
"""Longer URLs are not cached: thousands of them would be megabytes."""


class Note(NamedTuple):
    """A request, as redirects and the answer need to know it.

    Attributes:
        method: in upper case.
        url: the whole URL with its fragment, without user and password.
        place: where the request goes.
        fields: the fields that were added to the defaults.
        content: the body, or None.
        tls: for https.
        credentials: whether those of the upstream's settings may be sent.
        max_bytes: largest body of the answer, as received and when decoded.
    """

    method: str
    url: str
    place: HttpTarget
    fields: Fields
    content: bytes | None
    tls: Tls | None
    credentials: bool
    max_bytes: int


class HttpKind(Kind):
    """Client half of ``http``. The payload is described in :mod:`reqpool_contract.payloads.http`."""

    name: ClassVar[str] = "http"
    schemes: ClassVar[tuple[str, ...]] = ("http", "https")

    def encode(
        self,
        target: str,
        payload: str = "GET",
        *,
        params: object = None,
        headers: object = None,
        json: object = None,
        data: object = None,
        files: object = None,
        auth: object = None,
        tls: Tls | None = None,
        follow_redirects: bool = True,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> tuple[Route, bytes, Note]:
        """Check a request and encode it.

        Idempotent by its method: GET, HEAD, OPTIONS, TRACE, PUT and DELETE are.

        Args:
            target: ``http://host/path``, ``https://host/path``, or ``name/path`` with the name of an
                upstream in ``reqpool.toml``. A user and password in it are sent as basic authentication.
            payload: the method.
            params: for the query: a mapping or a list of pairs, with values of str, bytes, numbers, or lists
                of these; or a str or bytes, already encoded.
            headers: a mapping or a list of pairs; added to the default fields, or replacing those of the same
                name.
            json: the body, as anything that JSON can represent.
            data: the body, as bytes, str, an object with ``read()``, or a form (a mapping or a list of
                pairs).
            files: a multipart body: maps names to contents, (filename, content) or (filename, content,
                content type); see :func:`reqpool.kinds.http_body.body`.
            auth: (user, password), each str or bytes, or a bearer token.
            tls: for https, also if only a redirect leads there; None: the server is verified against the
                system's authorities.
            follow_redirects: False: a redirect is the answer.
            max_bytes: largest body of the answer, as received and when decoded; from 1 byte to 48 MiB.

        Raises:
            UsageError: an argument is wrong; the text says which, and what would be right.
        """
        if (
            params is headers is json is data is files is auth is tls is None
            and follow_redirects is True
            and max_bytes == DEFAULT_MAX_BYTES
            and type(target) is type(payload) is str
            and len(target) <= _CACHED_URL_CHARACTERS
        ):
            return _plain(payload, target)
        if type(follow_redirects) is not bool:
            raise UsageError(f"follow_redirects={follow_redirects!r}: must be True or False")
        if type(max_bytes) is not int or not 1 <= max_bytes <= LARGEST_MAX_BYTES:
            raise UsageError(
                f"max_bytes={max_bytes!r} is not a whole number of bytes from 1 to {LARGEST_MAX_BYTES}"
            )
        if tls is not None and not isinstance(tls, Tls):
            raise UsageError(f"tls= must be a reqpool.Tls, not {type(tls).__name__}")
        return _encoded(
            _method(payload),
            target,
            params,
            headers,
            (json, data, files),
            auth,
            tls,
            follow_redirects,
            max_bytes,
        )

    def decode(self, data: bytes, request: Asked) -> HttpResponse:
        """Wrap an answer; it is parsed when it is read.

        Raises:
            BadResponse: it is not an HTTP answer.
        """
        note: Note = request.note
        end = data.find(END)
        if end < 0:
            return HttpResponse.of(data, note.url, request.trail, request.facts, note.max_bytes)  # says why
        body = data[end + len(END) :]
        return HttpResponse(data[:end], body, note.url, request.trail, request.facts, note.max_bytes)

    def follow(self, data: bytes, request: Asked) -> Followed:
        """Make the request that a redirect leads to, as browsers (WHATWG Fetch) and RFC 9110 §15.4 do.

        After 303, and after 301 and 302 for POST, it is a GET without a body. Credentials, cookies and client
        certificates are not sent to another scheme, host or port; from https to http, no credentials of any
        sort are sent.

        Raises:
            BadResponse: too many redirects, or one to an invalid URL, which the text names.
        """
        note: Note = request.note
        here = note.url
        if note.place.origin.startswith("@"):
            base, _, data = data.partition(b"\r\n")
            here = base.decode() + here[len(note.place.shown) :]
        answer = HttpResponse.of(data, note.url, request.trail, request.facts, note.max_bytes)
        there = _location(here, answer)
        if len(request.trail) >= MAX_REDIRECTS:
            raise BadResponse(
                f"more than {MAX_REDIRECTS} redirects, the last one to {without_password(there)}"
            )
        try:
            route, payload, further = _redirected(note, here, there, answer.status)
        except UsageError as error:
            raise BadResponse(
                f"{without_password(note.url)} redirects to a URL that cannot be requested: {error.text}"
            ) from error
        if request.route.idempotent is not (note.method in IDEMPOTENT):
            route = with_idempotence(route, request.route.idempotent)  # as the caller chose
        return Followed(route, payload, further, answer)

    def endpoint(self, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        """Read the URL of an upstream; see :meth:`Kind.endpoint`.

        A user means basic authentication, a password without a user a bearer token.

        Raises:
            UsageError: it is wrong, or has a path or a query: those belong to requests.
        """
        read = parse(url, PORTS)
        if read.path not in ("", "/") or read.query:
            raise UsageError(
                f"{without_password(url)!r}: an upstream's URL must have no path; each request has its own"
            )
        secret = read.password if password is None else password
        settings: dict[str, Any] = {}
        if read.user is not None:
            basic(read.user, secret or "")
            settings = {"user": read.user, "password": secret or ""}
        elif secret is not None:
            bearer(secret)
            settings = {"token": secret}
        if tls is not None:
            if read.scheme != "https":
                raise UsageError(f"{without_password(url)!r}: tls is only for https:// URLs")
            settings["tls"] = tls.settings() or None
        return endpoint(f"{read.scheme}://{netloc(read.host, read.port)}", settings)


def _method(method: object) -> str:
    if not isinstance(method, str) or not is_token(method):
        raise UsageError(f"{without_password(method)!r} is not an HTTP method; write one like 'GET'")
    method = method.upper()
    if method == "CONNECT":
        raise UsageError("CONNECT is for proxies: it opens a tunnel and gets no answer")
    return method


# URLs repeat in real use; a hit costs a fraction of encoding the request again.
@lru_cache(maxsize=4096)
def _plain(method: str, url: str) -> tuple[Route, bytes, Note]:
    nothing = (None, None, None)
    return _encoded(_method(method), url, None, None, nothing, None, None, True, DEFAULT_MAX_BYTES)


def _encoded(
    method: str,
    url: str,
    params: object,
    headers: object,
    content: tuple[object, object, object],
    auth: object,
    tls: Tls | None,
    follow: bool,
    max_bytes: int,
) -> tuple[Route, bytes, Note]:
    prefix, path, fragment = split(url)
    where = place(KIND, prefix, tls)
    given = [] if headers is None else fields(headers)
    names = {name for name, _ in given}
    if auth is not None:
        if "authorization" in names:
            raise UsageError("give auth= or the header Authorization, not both")
        given.append(field("Authorization", authorization(auth)))
    elif where.authorization and "authorization" not in names:
        given.append(field("Authorization", where.authorization))
    body = make_body(*content)
    if body is not None:
        if method == "TRACE":
            raise UsageError("TRACE cannot have a body (RFC 9110 §9.3.8)")
        if body.content_type and "content-type" not in names:
            given.append(field("Content-Type", body.content_type))
    line = target(path, params)
    note = Note(
        method,
        f"{where.shown}{line}{fragment}",
        where,
        given,
        None if body is None else body.content,
        tls,
        True,
        max_bytes,
    )
    return _request(note, line, follow)


def _request(note: Note, line: str, follow: bool) -> tuple[Route, bytes, Note]:
    """Write a request; ``line`` is its path and query."""
    method, _, where, given, content, _, credentials, max_bytes = note
    flags = HEAD if method == "HEAD" else 0
    if follow:
        flags |= FOLLOW
    names = {name for name, _ in given}
    defaults = _ALL_DEFAULTS
    if not names.isdisjoint(_DEFAULTS):
        defaults = b"".join(default for name, default in _DEFAULTS.items() if name not in names)
    host = ""
    if where.origin.startswith("@"):
        flags |= NAMED if "host" in names else NAMED | NO_HOST
    elif "host" not in names:
        host = f"Host: {where.host}\r\n"
    if not credentials or "authorization" in names:
        flags |= NO_CREDENTIALS
    if "authorization" in names and any(line.lower().startswith(_OF_THE_CONNECTION) for _, line in given):
        # The server attributes all requests on the connection to this user (RFC 4559 §6).
        given = [*_without(given, frozenset(("connection",))), field("Connection", "close")]
        names.add("connection")
    if "connection" in names and any(
        name == "connection" and b"close" in connection_options(line) for name, line in given
    ):
        flags |= CLOSE
    length = ""
    if content is not None or method in _WITH_BODY:
        length = f"Content-Length: {len(content or b'')}\r\n"
    payload = b"".join(
        (
            HEADER.pack(flags, max_bytes),
            f"{method} {line} HTTP/1.1\r\n{host}".encode(),
            defaults,
            *[written for _, written in given],
            length.encode(),
            b"\r\n",
            content or b"",
        )
    )
    return where.idempotent if method in IDEMPOTENT else where.other, payload, note


# --- redirects --------------------------------------------------------------------------------------


def _location(here: str, answer: HttpResponse) -> str:
    """Return the absolute URL that a redirect leads to; a fragment is inherited (RFC 9110 §10.2.2)."""
    values = set(answer.headers.get_all("location"))
    if len(values) != 1:
        raise BadResponse(f"{without_password(answer.url)} redirects to {len(values)} places at once")
    location = values.pop()
    host = _HOST.match(location)
    begin = 0 if host is None else host.end()
    try:
        # In a host these are letters; elsewhere they are bytes, which the server must get back unchanged.
        named = location[:begin].encode("latin-1").decode()
        if _CONTROL.search(named):
            raise UsageError("its host has a control character in it")
        there = joined(
            here, named + _NOT_IN_URLS.sub(lambda found: f"%{ord(found[0]):02X}", location[begin:])
        )
    except (UsageError, UnicodeDecodeError) as error:
        shown = without_password(location)[:200]
        raise BadResponse(
            f"{without_password(answer.url)} redirects to {shown!r}, which is not a URL: {error}"
        ) from error
    _, mark, fragment = here.partition("#")
    return f"{there}{mark}{fragment}" if mark and "#" not in there else there


def _redirected(note: Note, here: str, there: str, status: int) -> tuple[Route, bytes, Note]:
    scheme = there.partition(":")[0].lower()
    if scheme not in PORTS:
        raise BadResponse(
            f"{without_password(note.url)} redirects to {without_password(there)!r}: "
            "only http and https are followed"
        )
    method, given, content = note.method, note.fields, note.content
    if (status == 303 and method not in ("GET", "HEAD")) or (status in (301, 302) and method == "POST"):
        method, content = "GET", None
        given = _without(given, _OF_A_BODY)
    prefix, path, fragment = split(there)
    before = place(KIND, split(here)[0], None)
    where, tls, credentials = place(KIND, prefix, note.tls), note.tls, note.credentials
    if where.origin == before.origin:
        # Also if it leads back to an upstream given by its name, to which the settings belong.
        where = note.place._replace(authorization=where.authorization)
    else:
        given = _without(given, _OF_ONE_ORIGIN)
        credentials = False
        if tls is not None:
            tls = Tls(ca=tls.ca, verify=tls.verify)
            where = place(KIND, prefix, tls)
    if where.authorization and not (before.origin.startswith("https:") and scheme == "http"):
        given = [*_without(given, frozenset(("authorization",))), field("Authorization", where.authorization)]
    line = target(path)
    url = f"{where.shown}{line}{fragment}"
    return _request(Note(method, url, where, given, content, tls, credentials, note.max_bytes), line, True)


def _without(given: Iterable[tuple[str, bytes]], names: frozenset[str]) -> Fields:
    return [(name, line) for name, line in given if name not in names]


KIND = HttpKind()
