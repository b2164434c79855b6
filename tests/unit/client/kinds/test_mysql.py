"""The client half of mysql: URLs, settings, what is encoded and what is refused at the call."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgpack
import pytest

import reqpool
from reqpool.kinds.mysql import KIND
from reqpool_contract.errors import BadResponse, MysqlError, UsageError
from reqpool_contract.origin_names import upstream_of
from reqpool_contract.tls_settings import Tls
from support import mysql_peer as peer
from support.plain import ASKED

URL = "mysql://me@127.0.0.1/db"


def settings(url: str, **options: Any) -> dict[str, Any]:
    return dict(msgpack.unpackb(KIND.endpoint(url, **options).settings or b"\x80"))


# --- where a statement goes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("mysql://me@127.0.0.1/db", "mysql://me@127.0.0.1:3306/db"),
        ("mysql://me@127.0.0.1", "mysql://me@127.0.0.1:3306/"),
        ("MySQL://me@LOCALHOST:3307/", "mysql://me@localhost:3307/"),
        ("mysql://m%40e@[::1]/d%2Fb", "mysql://m%40e@[::1]:3306/d%2Fb"),
        ("mysql://mé@h/dé", "mysql://m%C3%A9@h:3306/d%C3%A9"),
        ("mysql://me@/db?socket=/run/my%20sql.sock", "mysql://me@/db?socket=/run/my%20sql.sock"),
    ],
)
def test_a_url_without_secrets_is_an_origin(url: str, origin: str) -> None:
    route, _, _ = KIND.encode(url, "SELECT 1")
    assert (route.origins, route.settings, route.idempotent) == ((origin,), b"", False)
    assert KIND.endpoint(url) == (origin, b"")


def test_a_password_is_in_the_settings_and_never_in_the_origin() -> None:
    route, _, _ = KIND.encode("mysql://me:s%2Fcret@h/db", "SELECT 1")
    assert route.origins[0].startswith("mysql://me@h:3306/db#")
    assert "cret" not in repr(route)
    assert settings("mysql://me:s%2Fcret@h/db") == {"password": "s/cret"}
    assert settings("mysql://me@h/db", password="other") == {"password": "other"}
    assert settings("mysql://me:@h/db") == settings("mysql://me@h/db", password="") == {}


def test_users_with_different_passwords_have_different_origins() -> None:
    origins = {KIND.endpoint(f"mysql://me{secret}@h/db").origin for secret in ("", ":one", ":two")}
    assert len(origins) == 3
    assert len({upstream_of(origin) for origin in origins}) == 1  # and one limit


@pytest.mark.parametrize("options", [{"tls": Tls()}, {}])
def test_tls_is_a_variant_and_asked_for_by_scheme_or_option(options: dict[str, Any]) -> None:
    url = "mysql://me@h/db" if options else "mysqls://me@h/db"
    found = KIND.endpoint(url, **options)
    assert found.origin.startswith("mysql://me@h:3306/db?tls#")
    assert settings(url, **options) == {"tls": {}}
    assert upstream_of(found.origin) == upstream_of("mysql://me@h:3306/db")  # one limit for both
    assert settings("mysqls://me:pw@h/", tls=Tls(verify=False, server_name="db.example")) == {
        "password": "pw",
        "tls": {"verify": False, "server_name": "db.example"},
    }


def test_a_route_is_kept() -> None:
    assert KIND.encode(URL, "SELECT 1")[0] is KIND.encode(URL, "SELECT 2", params=())[0]


def test_an_upstream_by_name() -> None:
    route, _, _ = KIND.encode("orders", "SELECT 1")
    assert (route.origins, route.settings) == (("@orders",), b"")
    with pytest.raises(UsageError, match=r"has its TLS from reqpool\.toml"):
        KIND.encode("orders", "SELECT 1", tls=Tls())


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://me@h/", "not a URL that begins with mysql:// or mysqls://"),
        ("mysql://h/db", "has no user"),
        ("mysql://me@/db", r"give a host, or a socket \(\?socket=/path\)"),
        ("mysql://me@h/db?socket=/x", "give a host, or a socket"),
        ("mysql://me@/db?socket=x.sock", r"give the absolute path of the Unix socket: \?socket=/path"),
        ("mysql://me@/db?socket=/x&socket=/y", "an option is given twice"),
        ("mysql://me@h/a/b", "the name of one database"),
        ("mysql://me@h/a%00b", "the name of one database"),
        ("mysql://me@h/db?charset=latin1", "unknown option 'charset'; the character set is always utf8mb4"),
        ("mysqls://me@/db?socket=/x", "a Unix socket cannot have TLS or a port"),
        ("mysql://me@h:x/db", "port is not a number from 1 to 65535"),
        ("mysql://me:secret@h h/db", "space"),
        (7, "a URL must be a string"),
        ([], "target must be a string"),
    ],
)
def test_a_bad_url_is_a_usage_error(url: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        KIND.encode(url, "SELECT 1")
    assert "secret" not in str(caught.value)


def test_tls_is_a_tls() -> None:
    with pytest.raises(UsageError, match=r"tls= must be a reqpool\.Tls, not bool"):
        KIND.encode(URL, "SELECT 1", tls=True)  # type: ignore[arg-type]


# --- what is encoded ---------------------------------------------------------------------------------


def test_a_statement_without_parameters_is_its_own_payload() -> None:
    assert KIND.encode(URL, "SELECT 'ü %s %'")[1:] == (b"\x03SELECT '\xc3\xbc %s %'", None)


@pytest.mark.parametrize("sql", [b"SELECT 1", None, 7])
def test_sql_is_a_string(sql: Any) -> None:
    with pytest.raises(UsageError, match="SQL must be a string"):
        KIND.encode(URL, sql)
    with pytest.raises(UsageError, match="SQL must be a string"):
        KIND.encode_pinned(sql)


def test_sql_that_is_no_unicode_is_a_usage_error() -> None:
    for params in (None, ()):
        with pytest.raises(UsageError, match="cannot be encoded as UTF-8"):
            KIND.encode(URL, "SELECT '\ud800'", params=params)


def test_a_statement_over_the_limit_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="send it in parts"):
        KIND.encode(URL, "SELECT '" + "x" * (16 << 20) + "'")
    with pytest.raises(UsageError, match="send it in parts"):
        KIND.encode(URL, "SELECT %s", params=(bytes(16 << 20),))


def test_the_same_text_with_and_without_parameters() -> None:
    assert KIND.encode(URL, "SELECT '%d'")[1] == b"\x03SELECT '%d'"
    with pytest.raises(UsageError, match="is not a placeholder"):
        KIND.encode(URL, "SELECT '%d'", params=())


# --- sessions ----------------------------------------------------------------------------------------


def test_a_session_has_routes_of_its_own() -> None:
    shared, _, _ = KIND.encode("mysql://me:pw@h/db", "SELECT 1")
    route = KIND.pinned_route("mysql://me:pw@h/db", pin=7, opens=True)
    assert (route.origins, route.settings) == (shared.origins, shared.settings)
    assert (route.pin, route.opens, route.idempotent) == (7, True, False)
    assert KIND.pinned_route("orders", pin=7).origins == ("@orders",)


def test_a_session_may_do_what_a_shared_connection_may_not() -> None:
    assert KIND.encode_pinned("SET @a = 1") == (b"\x03SET @a = 1", None)
    assert KIND.encode_pinned("SELECT %s", (1,)) == (KIND.encode(URL, "SELECT %s", params=(1,))[1], None)


# --- what comes back ---------------------------------------------------------------------------------


def test_an_error_has_its_number_and_sqlstate() -> None:
    for error, about in (
        (peer.err(1062, b"23000", b"Duplicate '\xc3\xbc'"), (1062, "23000", "Duplicate 'ü'")),
        (peer.err(2000, b"", b"no state"), (2000, "HY000", "no state")),
    ):
        with pytest.raises(MysqlError) as caught:
            KIND.decode(peer.packet(1, error), ASKED)
        assert (caught.value.number, caught.value.sqlstate, caught.value.text) == about


@pytest.mark.parametrize(
    "data", [b"", peer.packet(1, b""), peer.packet(1, b"\xff"), peer.packet(1, b"\xff\x01")]
)
def test_half_an_error_is_a_bad_response(data: bytes) -> None:
    with pytest.raises(BadResponse):
        KIND.decode(data, ASKED)


# --- without PyMySQL ---------------------------------------------------------------------------------


WITHOUT_PYMYSQL = """
import sys
sys.modules["pymysql"] = None  # makes an import fail: docs.python.org, "The module cache"
from reqpool_contract.errors import UsageError
from reqpool.kinds.mysql import KIND
assert KIND.endpoint("mysql://me@h/").origin  # a configuration can be read without it
try:
    KIND.encode("mysql://me@h/", "SELECT 1")
except UsageError as error:
    print(error)
"""


def test_without_pymysql_the_call_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYMYSQL], capture_output=True, text=True, check=True)
    assert done.stdout == "kind mysql needs pymysql: pip install 'reqpool[mysql]'\n"


def test_the_public_names() -> None:
    assert reqpool.MysqlResult.__name__ == "MysqlResult"
    assert issubclass(reqpool.MysqlError, reqpool.UpstreamError)
