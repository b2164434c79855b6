"""Redirects: what the client half of http asks for next (WHATWG Fetch, RFC 9110 §15.4)."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from reqpool.kinds import Followed, with_idempotence
from reqpool.kinds.http import IDEMPOTENT, KIND, MAX_REDIRECTS
from reqpool_contract.errors import BadResponse, PoolError, RequestFacts
from reqpool_contract.payloads.http import FOLLOW, HEAD, HEADER, NAMED, NO_CREDENTIALS, NO_HOST
from reqpool_contract.tls_settings import Tls
from support import certificates

URL = "http://h.test/a/b?c=d"


class Asked:
    """A request as a kind sees it."""

    def __init__(self, note: Any, trail: tuple[Any, ...] = (), elapsed_s: float = 0.5) -> None:
        self.note = note
        self.trail = trail
        self.facts = RequestFacts("ab", 7, note.place.origin, 1, elapsed_s)
        self.route = note.place.idempotent if note.method in IDEMPOTENT else note.place.other


def redirect(*locations: str, status: int = 302) -> bytes:
    fields = "".join(f"Location: {location}\r\n" for location in locations)
    return f"HTTP/1.1 {status} X\r\n{fields}Content-Length: 4\r\n\r\ngone".encode()


def follow(
    location: str,
    url: str = URL,
    method: str = "GET",
    *,
    status: int = 302,
    base: bytes = b"",
    **options: Any,
) -> Followed:
    _, _, note = KIND.encode(url, method, **options)
    return KIND.follow(base + redirect(location, status=status), Asked(note))


def line(followed: Followed) -> str:
    return request(followed)[0]


def request(followed: Followed) -> tuple[str, dict[str, str], bytes]:
    head, _, body = followed.payload[HEADER.size :].partition(b"\r\n\r\n")
    first, *fields = head.decode("latin-1").split("\r\n")
    pairs = (field.partition(": ") for field in fields)
    return first, {name.lower(): value for name, _, value in pairs}, body


# --- where it leads ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "url", "asked"),
    [
        ("/x", "http://h.test/x", "GET /x"),
        ("x", "http://h.test/a/x", "GET /a/x"),
        ("../x?y#z", "http://h.test/x?y#z", "GET /x?y"),
        ("?y", "http://h.test/a/b?y", "GET /a/b?y"),
        ("//other.test/x", "http://other.test/x", "GET /x"),
        ("http://other.test", "http://other.test/", "GET /"),
        ("https://h.test/x", "https://h.test/x", "GET /x"),
        ("HTTP://H.TEST:80/x", "http://h.test/x", "GET /x"),
        ("/caf\xe9 au lait", "http://h.test/caf%C3%A9%20au%20lait", "GET /caf%C3%A9%20au%20lait"),
        ("/x%20y%zz", "http://h.test/x%20y%25zz", "GET /x%20y%25zz"),
        ("/a/./b/../c", "http://h.test/a/c", "GET /a/c"),
        ("../../..", "http://h.test/", "GET /"),
        (".", "http://h.test/a/", "GET /a/"),
        ("x;y=1?z", "http://h.test/a/x;y=1?z", "GET /a/x;y=1?z"),
        ("/x?", "http://h.test/x?", "GET /x?"),
        ("#f", "http://h.test/a/b?c=d#f", "GET /a/b?c=d"),
        ("?", "http://h.test/a/b?", "GET /a/b?"),
        ("//other.test?y", "http://other.test/?y", "GET /?y"),
        ("/x//y", "http://h.test/x//y", "GET /x//y"),
        ("http://b\xfccher.test/x", "http://xn--bcher-kva.test/x", "GET /x"),
        ("/\\evil.test/x", "http://h.test/%5Cevil.test/x", "GET /%5Cevil.test/x"),
        ("\\\\evil.test/x", "http://h.test/a/%5C%5Cevil.test/x", "GET /a/%5C%5Cevil.test/x"),
        ("/a\tb\x01\x7f", "http://h.test/a%09b%01%7F", "GET /a%09b%01%7F"),
    ],
)
def test_a_location_is_read_relative_to_the_url(location: str, url: str, asked: str) -> None:
    followed = follow(location)
    assert followed.note.url == url
    assert line(followed) == f"{asked} HTTP/1.1"
    assert HEADER.unpack_from(followed.payload)[0] & FOLLOW


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        (b"/caf\xe9", "/caf%E9"),
        (b"/caf\xc3\xa9", "/caf%C3%A9"),
        (b"/\xff\x80?q=\xe9#\xe9", "/%FF%80?q=%E9"),
        (b"?q=\xe9", "/a/b?q=%E9"),
        (b"http://h.test/caf\xe9", "/caf%E9"),
        (b"//h.test?\xe9", "/?%E9"),
        (b"\xe9//h", "/a/%E9//h"),
    ],
)
def test_bytes_in_a_location_come_back_as_they_were(location: bytes, asked: str) -> None:
    _, _, note = KIND.encode(URL, "GET")
    data = redirect("LOCATION").replace(b"LOCATION", location)
    followed = KIND.follow(data, Asked(note))
    assert line(followed) == f"GET {asked} HTTP/1.1"
    assert followed.note.url.isascii()


def test_a_broken_coding_of_a_redirects_body_does_not_matter() -> None:
    _, _, note = KIND.encode(URL, "GET")
    data = redirect("/x").replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    followed = KIND.follow(data, Asked(note))
    assert line(followed) == "GET /x HTTP/1.1"
    assert followed.step.raw == b"gone"


@pytest.mark.parametrize(
    ("url", "location", "expected"),
    [
        ("/a#one", "/x", "/x#one"),
        ("/a#one", "/x#two", "/x#two"),
        ("/a", "/x", "/x"),
    ],
)
def test_a_fragment_is_inherited(url: str, location: str, expected: str) -> None:
    assert follow(location, f"http://h.test{url}").note.url == f"http://h.test{expected}"


def test_the_query_of_params_counts_for_a_relative_location() -> None:
    followed = follow("x", params={"c": "d"})
    assert (followed.step.url, followed.note.url) == ("http://h.test/a/b?c=d&c=d", "http://h.test/a/x")


def test_the_host_is_that_of_the_new_url() -> None:
    assert request(follow("http://other.test:81/"))[1]["host"] == "other.test:81"
    assert follow("http://other.test:81/").route.origins == ("http://other.test:81",)


def test_routes_of_redirects_are_kept_too() -> None:
    assert follow("/x").route is KIND.encode(URL, "GET")[0]
    assert follow("http://other.test/x").route is follow("http://other.test/y").route


# --- methods -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "method", "becomes"),
    [
        (301, "GET", "GET"), (302, "GET", "GET"), (303, "GET", "GET"), (307, "GET", "GET"),
        (308, "GET", "GET"),
        (301, "HEAD", "HEAD"), (302, "HEAD", "HEAD"), (303, "HEAD", "HEAD"), (307, "HEAD", "HEAD"),
        (301, "POST", "GET"), (302, "POST", "GET"), (303, "POST", "GET"), (307, "POST", "POST"),
        (308, "POST", "POST"),
        (301, "PUT", "PUT"), (302, "DELETE", "DELETE"), (303, "PUT", "GET"), (303, "DELETE", "GET"),
        (307, "PATCH", "PATCH"), (308, "PUT", "PUT"),
    ],
)  # fmt: skip
def test_the_method_is_rewritten_as_browsers_do(status: int, method: str, becomes: str) -> None:
    body = None if method in ("GET", "HEAD") else b"body"
    headers = {"Content-Type": "a/b", "Content-Language": "en", "X-A": "b"}
    followed = follow("/x", method=method, status=status, data=body, headers=headers)
    first, fields, sent = request(followed)
    assert first == f"{becomes} /x HTTP/1.1"
    assert fields["x-a"] == "b"
    kept = body is not None and becomes == method
    assert sent == (b"body" if kept else b"")
    assert fields.get("content-length") == ("4" if kept else None)
    assert ("content-type" in fields, "content-language" in fields) == (kept or becomes == method,) * 2
    assert followed.route.idempotent is (becomes not in ("POST", "PATCH"))
    assert bool(HEADER.unpack_from(followed.payload)[0] & HEAD) == (becomes == "HEAD")


def test_a_multipart_body_goes_along_with_its_boundary() -> None:
    _, payload, note = KIND.encode(URL, "POST", files={"a": b"b"})
    followed = KIND.follow(redirect("/x", status=307), Asked(note))
    assert followed.payload == payload.replace(b"/a/b?c=d", b"/x", 1)


# --- credentials -------------------------------------------------------------------------------------

SECRETS = {
    "Authorization": "Bearer secret",
    "Cookie": "secret",
    "Proxy-Authorization": "secret",
    "Host": "virtual",
}
OTHER_ORIGINS = ["http://other.test/x", "https://h.test/x", "http://h.test:81/x", "//other.test/x"]


@pytest.mark.parametrize("location", ["/x", "http://h.test/x", "http://H.test:80/x"])
def test_credentials_stay_within_their_origin(location: str) -> None:
    fields = request(follow(location, headers=SECRETS))[1]
    assert {name: fields[name] for name in ("authorization", "cookie", "proxy-authorization", "host")} == {
        name.lower(): value for name, value in SECRETS.items()
    }
    assert request(follow(location, auth=("ann", "secret")))[1]["authorization"].startswith("Basic ")


@pytest.mark.parametrize("location", OTHER_ORIGINS)
@pytest.mark.parametrize(
    ("url", "options"),
    [(URL, {"headers": SECRETS}), (URL, {"auth": ("ann", "secret")}), (URL, {"auth": "secret"}),
     ("http://ann:secret@h.test/", {})],
)  # fmt: skip
def test_no_credentials_go_to_another_origin(location: str, url: str, options: Any) -> None:
    followed = follow(location, url, **options)
    assert b"secret" not in followed.payload
    assert b"c2VjcmV0" not in followed.payload  # base64
    assert "authorization" not in request(followed)[1]
    assert request(followed)[1]["host"] != "virtual"
    # Nor those that the config has for the place it leads to: whoever redirects must not spend them.
    assert HEADER.unpack_from(followed.payload)[0] & NO_CREDENTIALS
    assert "secret" not in followed.note.url


def test_credentials_that_were_dropped_do_not_come_back() -> None:
    away = follow("http://other.test/x", headers=SECRETS)
    back = KIND.follow(redirect(URL), Asked(away.note, (away.step,)))
    assert back.route.origins == ("http://h.test:80",)
    assert "authorization" not in request(back)[1]
    assert HEADER.unpack_from(back.payload)[0] & NO_CREDENTIALS


def test_a_locations_own_credentials_are_sent_and_not_shown() -> None:
    followed = follow("http://bob:other@other.test/x", headers=SECRETS)
    assert request(followed)[1]["authorization"] == "Basic Ym9iOm90aGVy"
    assert followed.note.url == "http://other.test/x"
    assert (
        request(follow("http://bob:other@h.test/x", auth="secret"))[1]["authorization"]
        == "Basic Ym9iOm90aGVy"
    )


def test_from_https_to_http_no_credentials_are_sent_at_all() -> None:
    followed = follow(
        "http://bob:other@h.test/x", "https://h.test/", auth="secret", headers={"Cookie": "secret"}
    )
    assert request(followed)[1].keys().isdisjoint({"authorization", "cookie"})
    assert followed.route.origins == ("http://h.test:80",)


def test_no_client_certificate_goes_to_another_origin(tmp_path: Any) -> None:
    made = certificates.make(tmp_path)
    tls = Tls(ca=made.ca, cert=made.client.cert, key=made.client.key, server_name="virtual.test")
    whole = {"ca", "cert", "key", "server_name"}
    assert set(msgpack.unpackb(follow("/x", "https://h.test/", tls=tls).route.settings)["tls"]) == whole
    other = follow("https://other.test/x", "https://h.test/", tls=tls)
    assert set(msgpack.unpackb(other.route.settings)["tls"]) == {"ca"}
    back = KIND.follow(redirect("https://h.test/"), Asked(other.note, (other.step,)))
    assert set(msgpack.unpackb(back.route.settings)["tls"]) == {"ca"}
    secured = follow("https://h.test/x", "http://h.test/", tls=Tls(ca=made.ca))
    assert set(msgpack.unpackb(secured.route.settings)["tls"]) == {"ca"}


# --- upstreams called by name ------------------------------------------------------------------------

BASE = b"http://10.0.0.1:8080\r\n"


@pytest.mark.parametrize(
    ("location", "url"),
    [("/x", "billing/x"), ("x", "billing/v1/x"), ("http://10.0.0.1:8080/x#f", "billing/x#f")],
)
def test_a_named_upstream_stays_one_and_keeps_its_credentials(location: str, url: str) -> None:
    followed = follow(location, "billing/v1/y", base=BASE)
    assert followed.route is KIND.encode("billing", "GET")[0]
    assert (followed.note.url, followed.step.url) == (url, "billing/v1/y")
    assert HEADER.unpack_from(followed.payload)[0] == FOLLOW | NAMED | NO_HOST
    again = KIND.follow(BASE + redirect("/z"), Asked(followed.note, (followed.step,)))
    assert again.note.url.partition("#")[0] == "billing/z"


def test_a_named_upstream_under_another_host_stays_so() -> None:
    followed = follow("/x", "billing/y", base=BASE, headers={"Host": "virtual"})
    assert request(followed)[1]["host"] == "virtual"
    assert HEADER.unpack_from(followed.payload)[0] == FOLLOW | NAMED


def test_from_a_named_upstream_elsewhere_is_another_origin() -> None:
    followed = follow("http://10.0.0.1/x", "billing/v1/y", base=BASE, headers=SECRETS)
    assert followed.route.origins == ("http://10.0.0.1:80",)
    assert b"secret" not in followed.payload
    assert HEADER.unpack_from(followed.payload)[0] == FOLLOW | NO_CREDENTIALS
    assert request(followed)[1]["host"] == "10.0.0.1"


# --- bad ones ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("ftp://h.test/x", "redirects to 'ftp://h.test/x': only http and https are followed"),
        ("javascript:alert(1)", "only http and https are followed"),
        ("file:///etc/passwd", "only http and https are followed"),
        ("http://h.test:99999/", "cannot be requested: .*[Pp]ort"),
        ("http://[::1/", "what is not a URL|cannot be requested"),
        ("http://a b/", "cannot be requested: .*space"),
        ("http://ann:secret@h.test:0/", "port is not a number"),
        ("//", "redirects to '//', which is not a URL: '//' has no host"),
        ("///x", "has no host"),
        ("////other.test/x", "has no host"),
        ("//?x", "has no host"),
        ("//#x", "has no host"),
        ("//:80/x", "cannot be requested: .*no host"),
        ("//@/x", "cannot be requested: .*no host"),
        ("http:", "has no host"),
        ("http:x", "has no host"),
        ("http:/x", "has no host"),
        ("HTTP:///x", "has no host"),
        ("http://", "has no host"),
        ("http://?x", "has no host"),
        ("https:///x", "has no host"),
        ("https:x", "has no host"),
        ("http:\\\\evil.test/", "has no host"),
        ("//evil.test\\@h.test/", "backslash"),
        ("//\\evil.test/", "backslash"),
        ("a:b", "only http and https are followed"),
        ("http://a\x1b[2J.test/", "its host has a control character in it"),
        ("//a\x01b/", "its host has a control character in it"),
    ],
)
def test_a_redirect_that_leads_nowhere_is_a_bad_response(location: str, says: str) -> None:
    with pytest.raises(BadResponse, match=says) as caught:
        follow(location)
    assert "secret" not in str(caught.value)


def test_a_location_whose_host_is_not_utf_8_is_a_bad_response() -> None:
    _, _, note = KIND.encode(URL, "GET")
    data = redirect("LOCATION").replace(b"LOCATION", b"http://b\xfccher.test/")
    with pytest.raises(BadResponse, match="which is not a URL"):
        KIND.follow(data, Asked(note))


def test_two_different_locations_are_a_bad_response() -> None:
    _, _, note = KIND.encode(URL, "GET")
    with pytest.raises(BadResponse, match="2 places at once"):
        KIND.follow(redirect("/x", "/y"), Asked(note))
    assert line(KIND.follow(redirect("/x", "/x"), Asked(note))) == "GET /x HTTP/1.1"


def test_twenty_redirects_are_followed_and_no_more() -> None:
    _, _, note = KIND.encode(URL, "GET")
    trail: tuple[Any, ...] = ()
    for number in range(MAX_REDIRECTS):
        followed = KIND.follow(redirect(f"/{number}"), Asked(note, trail))
        note, trail = followed.note, (*trail, followed.step)
    with pytest.raises(BadResponse, match=r"more than 20 redirects, the last one to http://h\.test/on"):
        KIND.follow(redirect("/on"), Asked(note, trail))
    final = KIND.decode(b"HTTP/1.1 200 OK\r\n\r\n", Asked(note, trail))
    assert [answer.url for answer in final.history] == [URL, *(f"http://h.test/{n}" for n in range(19))]
    assert final.url == "http://h.test/19"


@pytest.mark.parametrize("data", [b"", b"\r\n", b"HTTP/1.1 302 X\r\nLocation: /x", b"x" * 100])
def test_what_is_no_answer_is_an_error_of_ours(data: bytes) -> None:
    _, _, note = KIND.encode(URL, "GET")
    with pytest.raises(PoolError):
        KIND.follow(data, Asked(note))


# --- history -----------------------------------------------------------------------------------------


def test_each_step_is_an_answer_of_its_own() -> None:
    _, _, note = KIND.encode(URL, "GET")
    one = KIND.follow(redirect("/x", status=301), Asked(note))
    two = KIND.follow(redirect("/y"), Asked(one.note, (one.step,), 0.75))
    final = KIND.decode(b"HTTP/1.1 200 OK\r\n\r\nhere", Asked(two.note, (one.step, two.step), 1.0))
    assert [(a.status, a.url, a.content, a.elapsed_s, len(a.history)) for a in final.history] == [
        (301, URL, b"gone", 0.5, 0),
        (302, "http://h.test/x", b"gone", 0.75, 1),
    ]
    assert (final.url, final.content, final.elapsed_s) == ("http://h.test/y", b"here", 1.0)


def test_what_the_caller_changes_afterwards_changes_no_redirect() -> None:
    headers = {"X-A": "b"}
    _, _, note = KIND.encode(URL, "GET", headers=headers)
    headers["X-A"] = "c\r\nX-B: d"
    assert request(KIND.follow(redirect("/x"), Asked(note)))[1]["x-a"] == "b"


def test_limits_are_kept() -> None:
    followed = follow("/x", max_bytes=1_000)
    assert HEADER.unpack_from(followed.payload) == (FOLLOW, 1_000)
    assert followed.note.max_bytes == 1_000


@pytest.mark.parametrize(
    ("method", "status", "said", "then"),
    [
        ("GET", 302, False, False),
        ("POST", 307, True, True),
        ("POST", 307, False, False),
        ("POST", 303, False, True),
        ("GET", 302, True, True),
    ],
)
def test_the_callers_word_on_repeating_holds_for_all_redirects(
    method: str, status: int, said: bool, then: bool
) -> None:
    route, _, note = KIND.encode(URL, method)
    asked = Asked(note)
    asked.route = with_idempotence(route, said)
    assert KIND.follow(redirect("/x", status=status), asked).route.idempotent is then
