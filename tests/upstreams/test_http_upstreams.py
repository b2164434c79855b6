"""HTTP and HTTPS through a whole cluster, against a real nginx."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import reqpool
from bench.asked import BIG_BODY, SMALL_BODY
from support.cluster import Cluster, cluster
from support.nginx import PASSWORD, REDIRECTS, TEXT, USER, NginxServer

CONNECTION_CAP = 64


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(workers=2) as started:
        yield started


@pytest.fixture(scope="module")
def ca(nginx: NginxServer) -> reqpool.Tls:
    """TLS that trusts the authority of the tests."""
    return reqpool.Tls(ca=str(nginx.certificates.ca))


# --- answers -----------------------------------------------------------------------------------------


def test_an_answer_has_all_there_is_to_know(pool: reqpool.Pool, nginx: NginxServer) -> None:
    response = pool.http("GET", f"{nginx.url}/small").result(5)
    assert (response.status, response.reason) == (200, "OK")
    assert response.content == SMALL_BODY
    assert response.headers["content-LENGTH"] == str(len(SMALL_BODY))
    assert response.url == f"{nginx.url}/small"
    assert response.history == ()
    assert 0 < response.elapsed_s < 5
    assert pickle.loads(pickle.dumps(response)).content == SMALL_BODY


def test_a_large_body_comes_whole(pool: reqpool.Pool, nginx: NginxServer) -> None:
    futures = [pool.http("GET", f"{nginx.url}/big") for _ in range(8)]
    assert all(future.result(10).content == BIG_BODY for future in futures)


@pytest.mark.parametrize("path", ["/text", "/gzip", "/chunked", "/close"])
def test_every_framing_and_coding_gives_the_content(
    pool: reqpool.Pool, nginx: NginxServer, path: str
) -> None:
    response = pool.http("GET", f"{nginx.url}{path}").result(5)
    expected = {"/chunked": TEXT.replace(b"packs", b"PACKS"), "/close": SMALL_BODY}.get(path, TEXT)
    assert response.content == expected
    chunked = response.headers.get("transfer-encoding") == "chunked"
    assert chunked == (path in ("/gzip", "/chunked"))
    assert response.headers.get("content-encoding") == ("gzip" if path == "/gzip" else None)


def test_head_and_others_without_a_body_leave_the_connection_in_order(
    pool: reqpool.Pool, nginx: NginxServer
) -> None:
    head = pool.http("HEAD", f"{nginx.url}/big").result(5)
    assert (head.status, head.content, head.headers["content-length"]) == (200, b"", str(len(BIG_BODY)))
    assert pool.http("HEAD", f"{nginx.url}/gzip").result(5).content == b""
    none = pool.http("GET", f"{nginx.url}/none").result(5)
    assert (none.status, none.content) == (204, b"")
    etag = pool.http("GET", f"{nginx.url}/small").result(5).headers["etag"]
    same = pool.http("GET", f"{nginx.url}/small", headers={"If-None-Match": etag}).result(5)
    assert (same.status, same.content) == (304, b"")
    assert pool.http("GET", f"{nginx.url}/small").result(5).content == SMALL_BODY


def test_a_part_can_be_asked_for(pool: reqpool.Pool, nginx: NginxServer) -> None:
    response = pool.http("GET", f"{nginx.url}/small", headers={"Range": "bytes=3-7"}).result(5)
    assert (response.status, response.content) == (206, SMALL_BODY[3:8])


def test_any_status_is_an_answer_and_can_be_raised(pool: reqpool.Pool, nginx: NginxServer) -> None:
    response = pool.http("GET", f"{nginx.url}/teapot").result(5)
    assert (response.status, response.text) == (418, "short and stout")
    with pytest.raises(reqpool.HttpError, match="418") as caught:
        response.raise_for_status()
    assert caught.value.status == 418
    assert pool.http("GET", f"{nginx.url}/none").result(5).raise_for_status().status == 204


def test_thousands_of_answers_belong_to_their_requests(pool: reqpool.Pool, nginx: NginxServer) -> None:
    futures = {n: pool.http("GET", f"{nginx.url}/said?n={n}") for n in range(3_000)}
    for number, future in futures.items():
        assert future.result(10).text.split("|")[:2] == ["GET", f"n={number}"]
    assert nginx.connections() <= CONNECTION_CAP


def test_connections_are_kept(pool: reqpool.Pool, nginx: NginxServer) -> None:
    numbers = {pool.http("GET", f"{nginx.url}/connection").result(5).text for _ in range(20)}
    assert len(numbers) == 1


def test_a_connection_that_the_server_closes_is_not_kept(pool: reqpool.Pool, nginx: NginxServer) -> None:
    for _ in range(5):
        assert pool.http("GET", f"{nginx.url}/close").result(5).content == SMALL_BODY
        assert pool.http("POST", f"{nginx.url}/said").result(5).status == 200


# --- requests ----------------------------------------------------------------------------------------


def test_what_is_asked_is_what_the_server_reads(pool: reqpool.Pool, nginx: NginxServer) -> None:
    response = pool.http(
        "GET", f"{nginx.url}/said?a=1#f", params={"b": "c d"}, headers={"Cookie": "k=v"}, auth="abc"
    ).result(5)
    assert response.text == f"GET|a=1&b=c+d|{nginx.address}|Bearer abc|k=v"


@pytest.mark.parametrize("size", [0, 1, 100_000, 12 << 20])
def test_a_body_goes_up_and_comes_back(pool: reqpool.Pool, nginx: NginxServer, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    path = f"/put/{size}"
    assert pool.http("PUT", nginx.url + path, data=body, timeout=20.0).result(20).status in (201, 204)
    assert nginx.file(path) == body
    assert pool.http("GET", nginx.url + path, timeout=20.0).result(20).content == body
    assert pool.http("DELETE", nginx.url + path).result(5).status == 204


@pytest.mark.parametrize(
    ("options", "content_type"),
    [
        ({"data": {"a": "b"}}, "application/x-www-form-urlencoded"),
        ({"json": {"a": "b"}}, "application/json"),
        ({"files": {"a": b"b"}}, "multipart/form-data; boundary="),
        ({"data": "text"}, "text/plain; charset=utf-8"),
    ],
)
def test_a_body_is_announced(pool: reqpool.Pool, nginx: NginxServer, options: Any, content_type: str) -> None:
    method, length, kind = pool.http("POST", f"{nginx.url}/said/x", **options).result(5).text.split("|")
    assert method == "POST"
    assert int(length) > 0
    assert kind.startswith(content_type)


def test_basic_authentication_opens_the_door(pool: reqpool.Pool, nginx: NginxServer) -> None:
    url = f"{nginx.url}/private"
    assert pool.http("GET", url).result(5).status == 401
    assert pool.http("GET", url, auth=(USER, "wrong")).result(5).status == 401
    assert pool.http("GET", url, auth=(USER, PASSWORD)).result(5).content == SMALL_BODY
    in_url = f"http://{USER}:{PASSWORD.replace('@', '%40')}@{nginx.address}/private"
    response = pool.http("GET", in_url).result(5)
    assert (response.content, response.url) == (SMALL_BODY, url)
    assert pool.http("GET", url).result(5).status == 401, "nobody is let in by another one's connection"


def test_an_answer_before_the_request_is_sent_is_the_answer(pool: reqpool.Pool, nginx: NginxServer) -> None:
    response = pool.http("POST", f"{nginx.url}/small-body", data=bytes(8 << 20), timeout=10.0).result(10)
    assert response.status == 413
    assert pool.http("GET", f"{nginx.url}/small").result(5).content == SMALL_BODY


@pytest.mark.parametrize("path", ["/text", "/gzip", "/chunked"])
def test_a_body_over_the_limit_is_a_bad_response(pool: reqpool.Pool, nginx: NginxServer, path: str) -> None:
    future = pool.http("GET", f"{nginx.url}{path}", max_bytes=len(TEXT) - 1)
    with pytest.raises(reqpool.BadResponse, match=f"{len(TEXT) - 1} bytes"):
        future.result(5).content  # noqa: B018
    assert pool.http("GET", f"{nginx.url}{path}", max_bytes=len(TEXT)).result(5).status == 200


# --- redirects ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_redirects_are_followed_as_browsers_do(
    pool: reqpool.Pool, nginx: NginxServer, method: str, status: int
) -> None:
    body = None if method == "GET" else b"body"
    response = pool.http(method, f"{nginx.url}/to/{status}", data=body).result(5)
    rewritten = (method == "POST" and status in (301, 302, 303)) or (method == "PUT" and status == 303)
    assert response.text == ("GET||" if rewritten or body is None else f"{method}|4|")
    assert response.url == f"{nginx.url}/said/{status}"
    assert [(one.status, one.url) for one in response.history] == [(status, f"{nginx.url}/to/{status}")]


def test_a_redirect_is_an_answer_if_that_is_wanted(pool: reqpool.Pool, nginx: NginxServer) -> None:
    response = pool.http("GET", f"{nginx.url}/to/302", follow_redirects=False).result(5)
    assert (response.status, response.headers["location"]) == (302, f"{nginx.url}/said/302")
    assert response.history == ()


def test_a_relative_location_is_followed(pool: reqpool.Pool, nginx: NginxServer) -> None:
    response = pool.http("GET", f"{nginx.url}/relative/one").result(5)
    assert response.text.startswith("GET|relative|")


def test_a_loop_ends(pool: reqpool.Pool, nginx: NginxServer) -> None:
    with pytest.raises(reqpool.BadResponse, match="more than 20 redirects"):
        pool.http("GET", f"{nginx.url}/loop").result(5)


def test_a_redirect_to_another_scheme_is_refused(pool: reqpool.Pool, nginx: NginxServer) -> None:
    with pytest.raises(reqpool.BadResponse, match="only http and https are followed"):
        pool.http("GET", f"{nginx.url}/elsewhere?url=ftp://h/x").result(5)


def test_credentials_stay_with_their_origin(pool: reqpool.Pool, nginx: NginxServer, ca: reqpool.Tls) -> None:
    for there, kept in ((nginx.url, True), (nginx.https_url(), False)):
        url = f"{nginx.url}/elsewhere?url={there}/said"
        response = pool.http("GET", url, auth="abc", headers={"Cookie": "k=v"}, tls=ca).result(5)
        assert response.text.split("|")[3:] == (["Bearer abc", "k=v"] if kept else ["", ""])
        assert len(response.history) == 1


# --- TLS ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_https_is_verified_and_says_whom_it_wants(
    pool: reqpool.Pool, nginx: NginxServer, ca: reqpool.Tls, host: str
) -> None:
    response = pool.http("GET", f"{nginx.https_url(host=host)}/sni", tls=ca).result(5)
    name, _, version = response.text.split("|")
    assert name == ("localhost" if host == "localhost" else "")  # RFC 6066, 3: no addresses in SNI
    assert version.startswith("TLSv1.")


def test_a_large_body_comes_whole_through_tls(
    pool: reqpool.Pool, nginx: NginxServer, ca: reqpool.Tls
) -> None:
    futures = [pool.http("GET", f"{nginx.https_url()}/big", tls=ca) for _ in range(8)]
    assert all(future.result(10).content == BIG_BODY for future in futures)
    body = bytes(range(256)) * 20_000
    assert pool.http("PUT", f"{nginx.https_url()}/put/tls", data=body, tls=ca).result(10).status in (201, 204)
    assert nginx.file("/put/tls") == body


def test_connections_are_kept_under_tls(pool: reqpool.Pool, nginx: NginxServer, ca: reqpool.Tls) -> None:
    numbers = {pool.http("GET", f"{nginx.https_url()}/connection", tls=ca).result(5).text for _ in range(10)}
    assert len(numbers) == 1


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("expired", "certificate has expired"),
        ("future", "not yet valid"),
        ("wrong_name", r"not for 127\.0\.0\.1 but for somebody\.else\.test"),
        ("stranger", "unknown authority"),
        ("self_signed", "self-signed"),
    ],
)
def test_a_bad_certificate_is_said(
    pool: reqpool.Pool, nginx: NginxServer, ca: reqpool.Tls, which: str, says: str
) -> None:
    with pytest.raises(reqpool.ConnectFailed, match=says) as caught:
        pool.http("POST", f"{nginx.https_url(which)}/small", data=b"x", tls=ca).result(5)
    assert (caught.value.phase, caught.value.sent) == ("connect", False)


def test_the_systems_authorities_are_asked_by_default(pool: reqpool.Pool, nginx: NginxServer) -> None:
    with pytest.raises(reqpool.ConnectFailed, match="unknown authority"):
        pool.http("GET", f"{nginx.https_url()}/small").result(5)


def test_verification_can_be_turned_off_for_whom_it_was_and_nobody_else(
    pool: reqpool.Pool, nginx: NginxServer
) -> None:
    url = f"{nginx.https_url('expired')}/small"
    assert pool.http("GET", url, tls=reqpool.Tls(verify=False)).result(5).content == SMALL_BODY
    with pytest.raises(reqpool.ConnectFailed):
        pool.http("GET", url).result(5)


def test_a_client_certificate_is_shown(pool: reqpool.Pool, nginx: NginxServer, ca: reqpool.Tls) -> None:
    made = nginx.certificates
    ours = reqpool.Tls(ca=str(made.ca), cert=str(made.client.cert), key=str(made.client.key))
    url = f"{nginx.https_url('mutual')}/sni"
    assert pool.http("GET", url, tls=ours).result(5).text.split("|")[1] == "CN=client"
    assert pool.http("GET", url, tls=ca).result(5).status == 400, "nginx says so over HTTP"


def test_a_server_can_be_asked_for_by_another_name(pool: reqpool.Pool, nginx: NginxServer) -> None:
    tls = reqpool.Tls(ca=str(nginx.certificates.ca), server_name="a.service.test")
    assert pool.http("GET", f"{nginx.https_url()}/sni", tls=tls).result(5).text.startswith("a.service.test|")


def test_http_to_https_follows_with_the_given_authority(
    pool: reqpool.Pool, nginx: NginxServer, ca: reqpool.Tls
) -> None:
    url = f"{nginx.url}/elsewhere?url={nginx.https_url()}/small"
    assert pool.http("GET", url, tls=ca).result(5).content == SMALL_BODY
    with pytest.raises(reqpool.ConnectFailed, match="unknown authority"):
        pool.http("GET", url).result(5)


def test_plain_http_to_a_tls_port_and_the_other_way_round(
    pool: reqpool.Pool, nginx: NginxServer, ca: reqpool.Tls
) -> None:
    plain = nginx.https_url().replace("https", "http")
    assert pool.http("GET", f"{plain}/small").result(5).status == 400
    with pytest.raises(reqpool.ConnectFailed, match="does not speak TLS"):
        pool.http("GET", f"https://{nginx.address}/small", tls=ca).result(5)


# --- upstreams of the config -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def configured(nginx: NginxServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[reqpool.Pool]:
    """A pool whose broker knows nginx as ``site``, with a password, and as ``secure``, with a token."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "token").write_text("abc\n")
    (folder / "reqpool.toml").write_text(f"""
        [upstreams.site]
        url = "http://{USER}@{nginx.address}"
        password_file = "password"
        [upstreams.secure]
        url = "{nginx.https_url()}"
        password_file = "token"
        tls.ca = "{nginx.certificates.ca}"
    """)
    with (
        cluster(workers=1, arguments=["--config", str(folder / "reqpool.toml")]) as running,
        reqpool.Pool(running.url, timeout=5.0) as pool,
    ):
        yield pool


def test_a_configured_upstreams_password_is_for_those_who_name_it(
    configured: reqpool.Pool, nginx: NginxServer
) -> None:
    response = configured.http("GET", "site/private").result(5)
    assert (response.content, response.url) == (SMALL_BODY, "site/private")
    assert configured.http("GET", "site/private", auth=(USER, "wrong")).result(5).status == 401
    # Anybody's redirect may lead to its URL.
    assert configured.http("GET", f"{nginx.url}/private").result(5).status == 401


def test_a_configured_upstreams_tls_is_for_all(configured: reqpool.Pool, nginx: NginxServer) -> None:
    host = nginx.https_url().removeprefix("https://")
    for secure, sent in (("secure", "Bearer abc"), (nginx.https_url(), "")):
        assert configured.http("GET", f"{secure}/said").result(5).text.split("|")[2:4] == [host, sent]


def test_a_named_upstreams_redirects_stay_with_it(configured: reqpool.Pool, nginx: NginxServer) -> None:
    for path in ("/relative/one", f"/elsewhere?url={nginx.url}/said"):
        response = configured.http("GET", f"site{path}").result(5)
        assert response.text.split("|")[3].startswith("Basic ")
        assert response.url.startswith("site/said")


def test_a_redirect_does_not_spend_another_upstreams_password(
    configured: reqpool.Pool, nginx: NginxServer
) -> None:
    response = configured.http("GET", f"secure/elsewhere?url={nginx.url}/said").result(5)
    assert response.url == f"{nginx.url}/said"
    assert response.text.split("|")[3] == ""


def test_an_unknown_name_is_said(configured: reqpool.Pool) -> None:
    with pytest.raises(reqpool.PoolError, match="nowhere"):
        configured.http("GET", "nowhere/x").result(5)
