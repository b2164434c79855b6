"""The client half of http: what is sent, and what is refused at the call."""

from __future__ import annotations

import base64
import json
from enum import Enum
from pathlib import Path
from typing import Any

import msgpack
import pytest

from reqpool.kinds.http import KIND
from reqpool.kinds.http_content import ACCEPTED
from reqpool_contract.errors import UsageError
from reqpool_contract.payloads.http import CLOSE, FOLLOW, HEAD, HEADER, NAMED, NO_CREDENTIALS, NO_HOST
from reqpool_contract.tls_settings import Tls
from support import certificates
from support.http_request import URL, field, flags, sent, split


class Word(str, Enum):  # noqa: UP042  (what people write)
    YES = "y s"


class Number(int, Enum):
    TWO = 2


class Ratio(float, Enum):
    HALF = 0.5


# --- the request line and where it goes --------------------------------------------------------------


def test_a_plain_get_is_a_whole_request() -> None:
    route, payload, _ = KIND.encode(URL, "GET")
    assert (route.origins, route.settings, route.idempotent) == (("http://127.0.0.1:8080",), b"", True)
    assert HEADER.unpack_from(payload) == (FOLLOW, 16 << 20)
    line, fields, body = split(payload)
    assert (line, body) == ("GET /x HTTP/1.1", b"")
    assert [name for name, _ in fields] == ["Host", "User-Agent", "Accept", "Accept-Encoding"]
    assert dict(fields)["User-Agent"].startswith("reqpool/")
    assert dict(fields)["Accept-Encoding"] == ACCEPTED == "gzip, deflate, br, zstd"


@pytest.mark.parametrize(
    ("url", "origin", "host"),
    [
        ("http://example.test/", "http://example.test:80", "example.test"),
        ("http://example.test:80/", "http://example.test:80", "example.test"),
        ("http://example.test:8080/", "http://example.test:8080", "example.test:8080"),
        ("https://example.test/", "https://example.test:443", "example.test"),
        ("https://example.test:80/", "https://example.test:80", "example.test:80"),
        ("HTTP://EXAMPLE.test./", "http://example.test.:80", "example.test"),
        ("http://b\xfccher.test/", "http://xn--bcher-kva.test:80", "xn--bcher-kva.test"),
        ("http://[::1]/", "http://[::1]:80", "[::1]"),
        ("http://[0:0::1]:8080/", "http://[::1]:8080", "[::1]:8080"),
        ("http://ann:secret@example.test/", "http://example.test:80", "example.test"),
    ],
)
def test_a_url_has_one_origin_and_one_host(url: str, origin: str, host: str) -> None:
    assert KIND.encode(url, "GET")[0].origins == (origin,)
    assert field("host", url) == [host]


@pytest.mark.parametrize(
    ("rest", "target"),
    [
        ("", "/"),
        ("?a=b", "/?a=b"),
        ("/", "/"),
        ("/a/b?c=d&e=/?", "/a/b?c=d&e=/?"),
        ("/a#fragment", "/a"),
        ("#fragment", "/"),
        ("/a b", "/a%20b"),
        ("/caf\xe9?q=\u20ac", "/caf%C3%A9?q=%E2%82%AC"),
        ("/a%20b%zz%", "/a%20b%25zz%25"),
        ('/"<>\\^`{|}', "/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("/a/./b/../c", "/a/c"),
        ("/../../etc", "/etc"),
        ("/a/..", "/"),
        ("/a/.", "/a/"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a?x=/../y", "/a?x=/../y"),
        ("//double", "//double"),
        ("/@:!$&'()*+,;=-._~[]", "/@:!$&'()*+,;=-._~[]"),
    ],
)
def test_a_path_is_written_as_http_has_it(rest: str, target: str) -> None:
    assert sent(f"http://h{rest}")[0] == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize(
    ("params", "target"),
    [
        ({"a": "b", "c": 1, "d": 1.5}, "/x?q=1&a=b&c=1&d=1.5"),
        ([("a", "b"), ("a", b"c")], "/x?q=1&a=b&a=c"),
        ({"a": ["b", 2], "c": ("d",), "e": None, "f": []}, "/x?q=1&a=b&a=2&c=d"),
        ({"a b": "\xe9&="}, "/x?q=1&a+b=%C3%A9%26%3D"),
        ({}, "/x?q=1"),
        ("a=b&c", "/x?q=1&a=b&c"),
        (b"a=b&c=\xe9%20 #", "/x?q=1&a=b&c=%E9%20%20%23"),
    ],
)
def test_params_go_into_the_query(params: Any, target: str) -> None:
    assert sent(f"{URL}?q=1#f", params=params)[0] == f"GET {target} HTTP/1.1"
    assert sent(URL, params=params)[0] == f"GET {target} HTTP/1.1".replace("q=1&", "").replace("?q=1", "")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/p?", "/p?a=1"),
        ("/p?x=1&", "/p?x=1&a=1"),
        ("?", "/?a=1"),
        ("/p?x&&", "/p?x&&a=1"),
        ("/p&", "/p&?a=1"),
    ],
)
def test_params_behind_an_open_query_bring_no_empty_pair(path: str, target: str) -> None:
    for params in ({"a": 1}, "a=1"):
        assert sent(f"http://h{path}", params=params)[0] == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize(
    ("method", "idempotent"),
    [("GET", True), ("HEAD", True), ("OPTIONS", True), ("TRACE", True), ("PUT", True), ("DELETE", True),
     ("POST", False), ("PATCH", False), ("PROPFIND", False), ("get", True)],
)  # fmt: skip
def test_what_may_be_repeated_depends_on_the_method(method: str, idempotent: bool) -> None:
    route, payload, _ = KIND.encode(URL, method)
    assert route.idempotent is idempotent
    assert split(payload)[0] == f"{method.upper()} /x HTTP/1.1"
    assert bool(HEADER.unpack_from(payload)[0] & HEAD) == (method == "HEAD")


def test_one_origin_has_two_routes_that_are_kept() -> None:
    get = KIND.encode(URL, "GET")[0]
    assert KIND.encode("http://127.0.0.1:8080/y", "PUT", data=b"x")[0] is get
    post = KIND.encode(URL, "POST")[0]
    assert post is not get
    assert KIND.encode("http://127.0.0.1:8080/z", "PATCH", params={"a": 1})[0] is post


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_request_that_could_have_a_body_says_that_it_has_none(method: str) -> None:
    assert field("content-length", method=method) == ["0"]
    assert field("content-length", method="GET") == field("content-length", method="DELETE") == []


def test_options_are_told_to_the_worker() -> None:
    _, payload, note = KIND.encode(URL, "GET", follow_redirects=False, max_bytes=1_000)
    assert HEADER.unpack_from(payload) == (0, 1_000)
    assert note.max_bytes == 1_000


# --- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "target"),
    [("billing", "/"), ("billing/v1/x?a=b", "/v1/x?a=b"), ("billing?a", "/?a"), ("billing/#f", "/")],
)
def test_an_upstream_can_be_called_by_its_name(url: str, target: str) -> None:
    route, payload, _ = KIND.encode(url, "GET")
    assert (route.origins, route.settings) == (("@billing",), b"")
    line, fields, _ = split(payload)
    assert line == f"GET {target} HTTP/1.1"
    assert "Host" not in dict(fields)
    assert HEADER.unpack_from(payload)[0] == FOLLOW | NAMED | NO_HOST


def test_a_named_upstream_may_be_given_another_host_header() -> None:
    assert flags("billing/x", headers={"Host": "other.test"}) == FOLLOW | NAMED
    assert field("host", "billing/x", headers={"Host": "other.test"}) == ["other.test"]


def test_a_named_upstreams_tls_is_in_its_config() -> None:
    with pytest.raises(UsageError, match=r"tls= cannot be given for an upstream called by name \(billing\)"):
        KIND.encode("billing/x", "GET", tls=Tls(verify=False))


# --- headers -----------------------------------------------------------------------------------------


def test_headers_are_added_and_replace_the_default_ones() -> None:
    fields = sent(headers={"accept": "text/html", "X-A": "b", "User-Agent": b"me"})[1]
    assert fields[2:] == [("accept", "text/html"), ("X-A", "b"), ("User-Agent", "me")]
    assert [name for name, _ in fields[:2]] == ["Host", "Accept-Encoding"]


def test_a_header_can_come_more_than_once() -> None:
    assert field("x-a", headers=[("X-A", "1"), ("x-a", "2")]) == ["1", "2"]


def test_values_are_latin_1_or_bytes_and_lose_white_space_around_them() -> None:
    assert field("x-a", headers={"X-A": " caf\xe9\t "}) == ["caf\xe9"]
    assert field("x-a", headers={"X-A": "\u20ac".encode()}) == ["\u20ac".encode().decode("latin-1")]


def test_a_host_header_can_be_given() -> None:
    assert field("host", headers={"host": "other.test"}) == ["other.test"]
    assert KIND.encode(URL, "GET", headers={"host": "other.test"})[0].origins == ("http://127.0.0.1:8080",)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"X-A": "a\r\nX-B: b"}, "header X-A: its value has a line break"),
        ({"X-A": "a\nb"}, "header X-A: its value has a line break"),
        ({"X-A": "a\rb"}, "header X-A: its value has a line break"),
        ({"X-A": b"a\r\nb"}, "header X-A: its value has a line break"),
        ({"X-A": "a\0b"}, "header X-A"),
        ({"X-A": "a\x7fb"}, "header X-A"),
        ({"X-A": "\u20ac"}, "header X-A: its value is not Latin-1"),
        ({"X-A": 5}, "header X-A: its value must be a str or bytes, not int"),
        ({"X-A": None}, "header X-A: its value must be a str or bytes, not NoneType"),
        ({"X A": "b"}, "'X A' is not a header name"),
        ({"X:A": "b"}, r"'X:\*\*\*' is not a header name"),
        ({"X-A\r\nX-B": "b"}, "is not a header name"),
        ({"": "b"}, "'' is not a header name"),
        ({"X-\xe9": "b"}, "is not a header name"),
        ({5: "b"}, "(int).* is not a header name"),
        ({"Host": "a\r\nb"}, "header Host"),
        ([("Host", "a"), ("host", "b")], "header Host is given more than once"),
        ({"Content-Length": "5"}, "header Content-Length cannot be set: it is set from the body"),
        ({"transfer-encoding": "chunked"}, "header transfer-encoding cannot be set"),
        ({"Upgrade": "websocket"}, "header Upgrade cannot be set"),
        ({"Authorization": "ntlm TlRMTVNTUAAB"}, "NTLM authenticates a connection"),
        ({"Connection": "Upgrade"}, "header Connection can be 'close' or 'keep-alive', not 'Upgrade'"),
        ({"Connection": b"close, TE"}, "header Connection can be"),
        ({"Connection": ""}, "header Connection can be"),
        ({"Connection": "clos\xe9"}, "header Connection can be"),
        ({"Connection": ["close"]}, "header Connection: its value must be a str or bytes, not list"),
        ({b"X A": "b"}, "'X A' is not a header name"),
        ("X-A: b", "headers= must be a mapping or a list of pairs, not str"),
        (["X-A: b"], r"not a \(name, value\) pair: str"),
        ([("X-A", "b", "c")], r"not a \(name, value\) pair"),
        (5, "not int"),
    ],
)
def test_wrong_headers_are_refused_at_the_call(headers: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        KIND.encode(URL, "GET", headers=headers)


def test_a_connection_that_is_not_to_be_kept_is_the_last_ones() -> None:
    assert flags(headers={"Connection": "close"}) & CLOSE
    assert not flags(headers={"Connection": "keep-alive", "Authorization": "Basic YTpi"}) & CLOSE
    assert not flags(auth=("ann", "secret")) & CLOSE


@pytest.mark.parametrize(
    ("value", "last"),
    [
        ("Close", True), (b"close", True), (b" CLOSE\t", True), ("keep-alive, Close", True),
        ("close,close", True), ("Keep-Alive", False), (b"keep-alive", False),
        ("keep-alive , Keep-Alive", False),
    ],
)  # fmt: skip
def test_connection_options_are_without_case_and_may_be_a_list(value: str | bytes, last: bool) -> None:
    for headers in ({"Connection": value}, {b"connection": value}, [("CONNECTION", value)]):
        assert bool(flags(headers=headers) & CLOSE) is last
        written = value if isinstance(value, str) else value.decode()
        assert field("connection", headers=headers) == [written.strip()]


def test_one_of_several_connection_fields_is_enough_to_close() -> None:
    assert flags(headers=[("Connection", "keep-alive"), ("X", "close"), ("connection", "Close")]) & CLOSE
    assert not flags(headers=[("Connection", "keep-alive"), ("X", "close")]) & CLOSE


def test_a_headers_name_may_be_bytes() -> None:
    assert field("x-a", headers={b"X-A": b"b"}) == ["b"]


@pytest.mark.parametrize("given", [{}, {"Connection": "keep-alive"}, {"connection": "close"}])
def test_what_logs_the_connection_in_is_its_last_request(given: dict[str, str]) -> None:
    options = {"headers": {**given, "AUTHORIZATION": "negotiate YII="}}
    assert flags(**options) & CLOSE
    assert field("connection", **options) == ["close"]
    assert field("authorization", **options) == ["negotiate YII="]


def test_a_refused_header_does_not_show_its_value() -> None:
    with pytest.raises(UsageError) as caught:
        KIND.encode(URL, "GET", headers={"Authorization": "Bearer secret\n"})
    assert "secret" not in str(caught.value)


# --- authentication ----------------------------------------------------------------------------------


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("url", "options", "value"),
    [
        (URL, {"auth": ("ann", "s\xe9cret")}, basic("ann", "sécret")),
        (URL, {"auth": ("ann", "")}, basic("ann", "")),
        (URL, {"auth": (b"ann", "s\xe9cret")}, basic("ann", "sécret")),
        (URL, {"auth": ("ann", b"\xff")}, "Basic YW5uOv8="),
        (URL, {"auth": "abc.def"}, "Bearer abc.def"),
        ("http://ann:s%40:cret@h/", {}, basic("ann", "s@:cret")),
        ("http://ann@h/", {}, basic("ann", "")),
        ("http://:secret@h/", {}, basic("", "secret")),
        ("http://ann:secret@h/", {"auth": ("bob", "other")}, basic("bob", "other")),
        ("http://ann:secret@h/", {"headers": {"authorization": "Digest x"}}, "Digest x"),
    ],
)
def test_credentials_become_a_header(url: str, options: Any, value: str) -> None:
    assert field("authorization", url, **options) == [value]
    assert flags(url, **options) & NO_CREDENTIALS


def test_without_credentials_those_of_the_settings_may_be_sent() -> None:
    assert not flags() & NO_CREDENTIALS


@pytest.mark.parametrize(
    ("auth", "says"),
    [
        (("a:b", "c"), "cannot contain a colon"),
        ((b"a:b", b"c"), "cannot contain a colon"),
        ((b"a", b"c\n"), "control character"),
        (("a\nb", "c"), "control character"),
        (("a", "c\0"), "control character"),
        (("a",), r"auth= must be \(user, password\), or a bearer token"),
        (("a", 5), r"auth= must be \(user, password\)"),
        (5, "not int"),
        ("", "printable ASCII"),
        ("a b", "printable ASCII"),
        ("a\r\nb", "printable ASCII"),
    ],
)
def test_wrong_credentials_are_refused_at_the_call(auth: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        KIND.encode(URL, "GET", auth=auth)


def test_credentials_are_given_once() -> None:
    with pytest.raises(UsageError, match="auth= or the header Authorization, not both"):
        KIND.encode(URL, "GET", auth=("a", "b"), headers={"authorization": "x"})


# --- bad URLs, methods and options -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is not a URL"),
        ("/path", "is not a URL"),
        ("127.0.0.1:80/x", "is not a URL"),
        ("ftp://h/x", "is not a URL that begins with http:// or https://"),
        ("http:/h/x", "is not a URL"),
        ("http://", "has no host"),
        ("http:///x", "has no host"),
        ("http://h:0/", "port is not a number from 1"),
        ("http://h:99999/", "port is not a number from 1"),
        ("http://h:a/", "port is not a number from 1"),
        ("http://a b/", "space"),
        ("http://a\r\nb/", "space or a control character"),
        ("http://h/a\r\nX: y", "control character"),
        ("http://h/\x00", "control character"),
        ("http://h_\xff.\u2028/", "not a host name"),
        ("http://h/\ud800", "cannot be encoded as UTF-8"),
        ("http://h/?\udcff", "cannot be encoded as UTF-8"),
        ("http://\ud800/", "cannot be encoded as UTF-8"),
        ("http://a..b/", "not a host name"),
        ("http://evil.test[::1]:1/", "brackets"),
        ("http://u[::1]@evil.test/", "brackets"),
        ("http://u:p[w@h/", "brackets.*percent-encode"),
        ("http://[::1]evil.test/", "brackets"),
        ("http://[evil.test]/", "brackets"),
        ("http://300.1.1.1/", "not an IPv4 address"),
        ("http://[::1/", "brackets"),
        ("http://good.test\\@evil.test/", "has a backslash"),
        ("http://a%00b:c@h/", "control character"),
        (b"http://h/", "a URL must be a string, not bytes"),
        (None, "not NoneType"),
        (5, "not int"),
        (["http://h/"], "not list"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"headers": {}}])
def test_bad_urls_are_refused_at_the_call(url: Any, says: str, options: Any) -> None:
    with pytest.raises(UsageError, match=says):
        KIND.encode(url, "GET", **options)


def test_a_bad_url_does_not_show_its_password() -> None:
    with pytest.raises(UsageError) as caught:
        KIND.encode("ftp://ann:secret@h/", "GET")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("GE T", {}, "'GE T' is not an HTTP method"),
        ("GET\r\n", {}, "is not an HTTP method"),
        ("", {}, "is not an HTTP method"),
        (5, {}, "(int).* is not an HTTP method"),
        ("CONNECT", {}, "CONNECT is for proxies"),
        ("GET", {"max_bytes": 0}, "max_bytes=0 is not a whole number of bytes from 1"),
        ("GET", {"max_bytes": (48 << 20) + 1}, "max_bytes="),
        ("GET", {"max_bytes": 1.5}, "max_bytes=1.5"),
        ("GET", {"max_bytes": True}, "max_bytes=True"),
        ("GET", {"follow_redirects": 1}, "follow_redirects=1"),
        ("GET", {"tls": False}, "tls= must be a reqpool.Tls, not bool"),
        ("GET", {"params": 5}, "params= must be a mapping or a list of pairs, not int"),
        ("GET", {"params": {"a": object()}}, "params= 'a' has a value of type object"),
        ("GET", {"params": {"a": 1 << 20_000}}, "params= 'a' has a number that is too long"),
        ("GET", {"params": "a\r\nb"}, "control character"),
        ("GET", {"params": "\ud800"}, "cannot be encoded as UTF-8"),
        ("GET", {"params": {"a": "\ud800"}}, "params= cannot be encoded as UTF-8"),
    ],
)
def test_wrong_methods_and_options_are_refused_at_the_call(method: Any, options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        KIND.encode(URL, method, **options)


# --- tls and upstreams of the config -----------------------------------------------------------------


def test_tls_makes_an_origin_of_its_own(tmp_path: Path) -> None:
    ca = certificates.make(tmp_path).ca
    plain = KIND.encode("https://h/", "GET")[0]
    assert (plain.origins, plain.settings) == (("https://h:443",), b"")
    assert KIND.encode("https://h/", "GET", tls=Tls())[0].origins == plain.origins
    route = KIND.encode("https://h/", "GET", tls=Tls(ca=str(ca)))[0]
    (origin,) = route.origins
    assert origin.startswith("https://h:443#")
    assert msgpack.unpackb(route.settings) == {"tls": {"ca": ca.read_text()}}
    assert KIND.encode("https://h/y", "GET", tls=Tls(ca=str(ca)))[0] is route
    other = KIND.encode("https://h/", "GET", tls=Tls(verify=False))[0]
    assert other.origins not in (route.origins, plain.origins)
    assert msgpack.unpackb(other.settings) == {"tls": {"verify": False}}


def test_tls_is_for_the_https_that_http_redirects_to() -> None:
    assert KIND.encode("http://h/", "GET", tls=Tls(verify=False))[0].settings == b""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ca": ["ca.pem"]}, "tls ca= must be the path of a PEM file, not list"),
        ({"key": b"key.pem"}, "tls key= must be the path of a PEM file, not bytes"),
        ({"verify": 0}, "tls verify=0: must be True or False"),
        ({"server_name": 5}, "tls server_name= must be a string, not int"),
        ({"server_name": "\ud800"}, "is not a host name"),
    ],
)
def test_tls_of_another_type_is_refused(options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Tls(**options)


def test_a_missing_certificate_is_refused_at_the_call() -> None:
    with pytest.raises(UsageError, match=r"tls ca=.*No such file"):
        KIND.encode("https://h/", "GET", tls=Tls(ca="/nowhere/ca.pem"))


@pytest.mark.parametrize(
    ("url", "password", "public", "settings"),
    [
        ("http://h", None, "http://h:80", {}),
        ("https://h:8443/", None, "https://h:8443", {}),
        ("http://ann:secret@h", None, "http://h:80", {"user": "ann", "password": "secret"}),
        ("http://ann@h", "secret", "http://h:80", {"user": "ann", "password": "secret"}),
        ("http://ann@h", None, "http://h:80", {"user": "ann", "password": ""}),
        ("http://h", "abc", "http://h:80", {"token": "abc"}),
    ],
)
def test_the_config_reads_a_url(url: str, password: str | None, public: str, settings: Any) -> None:
    origin, packed = KIND.endpoint(url, password=password)
    assert origin.partition("#")[0] == public
    assert (msgpack.unpackb(packed) if packed else {}) == settings
    assert bool(packed) == ("#" in origin)
    assert "secret" not in origin


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("http://h/path", {}, "an upstream's URL must have no path"),
        ("http://h/?a", {}, "an upstream's URL must have no path"),
        ("redis://h", {}, "not a URL that begins with http:// or https://"),
        ("http://h", {"password": "a b"}, "bearer token"),
        ("http://h", {"password": "a\r\nb"}, "bearer token"),
        ("http://a%3Ab@h", {}, "colon"),
        ("http://h", {"tls": Tls()}, "tls is only for https"),
    ],
)
def test_the_config_refuses_what_is_no_upstream(url: str, options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        KIND.endpoint(url, **options)


def test_two_users_never_share_an_origin() -> None:
    one, other = (KIND.endpoint("http://ann@h", password=word).origin for word in ("a", "b"))
    assert one != other


# --- what it is all for ------------------------------------------------------------------------------


def test_json_goes_out_as_json_reads_it() -> None:
    value = {"a": [1, 2.5, None, True, "\u20ac\n"], "b": {}}
    assert json.loads(sent(method="POST", json=value)[2]) == value


def test_a_value_of_a_derived_type_is_what_it_is_derived_from() -> None:
    """str() of an enum's member is its name."""
    values = {"a": Word.YES, "b": Number.TWO, "c": [Ratio.HALF, True]}
    assert sent(params=values)[0] == "GET /x?a=y+s&b=2&c=0.5&c=True HTTP/1.1"
    assert sent(method="POST", data=values)[2] == b"a=y+s&b=2&c=0.5&c=True"
