"""``reqpool http|redis|mysql`` against a real cluster, scripted peers and real servers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.certificates import make
from support.cluster import Cluster, cluster
from support.dns_peer import closed_port
from support.mariadb import PASSWORD, MariadbServer
from support.redis_server import RedisServer
from support.tcp_peer import Script, TcpPeer, answers


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(workers=1) as started:
        yield started


def reqpool_command(
    running: Cluster, *arguments: str, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "reqpool_ops", *arguments],
        input=stdin,
        capture_output=True,
        timeout=30,
        env=os.environ | {"REQPOOL_URL": running.url} | environment,
    )


def assert_one_line(done: subprocess.CompletedProcess[bytes], *says: str) -> None:
    """It failed, and said why in one line."""
    error = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"")
    assert error.startswith("reqpool: ")
    assert error.count("\n") == 1
    for words in says:
        assert words in error


# --- http ------------------------------------------------------------------------------------------


def answer(body: bytes, status: str = "200 OK", *fields: str) -> Script:
    head = "\r\n".join((f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}"))
    return answers(head.encode("latin-1") + b"\r\n\r\n" + body, request_ends=b"\r\n\r\n")


def test_http_prints_the_body_as_it_came(running: Cluster) -> None:
    with TcpPeer(answer(b"\x00\xffno end of line")) as peer:
        done = reqpool_command(running, "http", f"http://{peer.address}/path?q=1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\x00\xffno end of line", b"")
    assert peer.received.startswith(b"GET /path?q=1 HTTP/1.1\r\n")


def test_http_sends_what_it_is_given(running: Cluster) -> None:
    with TcpPeer(answer(b"")) as peer:
        url = f"http://app@{peer.address}/"
        done = reqpool_command(
            running, "http", "PUT", url, "-H", "X-Name: value", "--json", "-d", "@-",
            stdin=b'{"a": 1}', REQPOOL_PASSWORD="secret",
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    lines = peer.received.split(b"\r\n")
    assert lines[0] == b"PUT / HTTP/1.1"
    for line in (
        b"X-Name: value",
        b"Content-Type: application/json",
        b"Authorization: Basic YXBwOnNlY3JldA==",
    ):
        assert line in lines


def test_http_shows_status_and_headers_if_asked(running: Cluster) -> None:
    with TcpPeer(
        answer(b"text", "404 Not Here", "X-Odd: a\x9b2Jb", "Set-Cookie: a", "Set-Cookie: b")
    ) as peer:
        done = reqpool_command(running, "http", "-i", f"http://{peer.address}/")
    assert done.returncode == 0
    assert done.stdout.split(b"\n") == [
        b"HTTP/1.1 404 Not Here", rb"X-Odd: a\x9b2Jb", b"Set-Cookie: a", b"Set-Cookie: b",
        b"Content-Length: 4", b"", b"text",
    ]  # fmt: skip


def test_http_fails_for_a_status_only_if_asked(running: Cluster) -> None:
    with TcpPeer(answer(b"sorry", "500 Oh")) as peer:
        plain = reqpool_command(running, "http", f"http://{peer.address}/")
        strict = reqpool_command(running, "http", "--fail", f"http://{peer.address}/")
    assert (plain.returncode, plain.stdout) == (0, b"sorry")
    assert_one_line(strict, "500 Oh")


def test_http_shows_a_redirect_if_it_is_not_to_follow(running: Cluster) -> None:
    with (
        TcpPeer(answer(b"there")) as there,
        TcpPeer(answer(b"here", "302 Found", f"Location: http://{there.address}/")) as here,
    ):
        follows = reqpool_command(running, "http", f"http://{here.address}/")
        stays = reqpool_command(running, "http", "--no-redirect", f"http://{here.address}/")
    assert (follows.stdout, stays.stdout) == (b"there", b"here")


def test_http_writes_the_body_to_a_file(running: Cluster, tmp_path: Path) -> None:
    with TcpPeer(answer(b"\x00body")) as peer:
        done = reqpool_command(running, "http", "-o", f"{tmp_path}/out", f"http://{peer.address}/")
        assert (done.returncode, done.stdout) == (0, b"")
        assert (tmp_path / "out").read_bytes() == b"\x00body"
        missing = reqpool_command(running, "http", "-o", f"{tmp_path}/no/out", f"http://{peer.address}/")
    assert_one_line(missing, "no/out: No such file")


def test_what_goes_wrong_is_one_line(running: Cluster) -> None:
    address = closed_port()
    assert_one_line(reqpool_command(running, "http", f"http://{address}/"), address, "refused")
    assert_one_line(reqpool_command(running, "http", "nonsense://x"), "nonsense://x")
    assert_one_line(reqpool_command(running, "http", "http://h/", "-H", "X: a\nb"), "header")
    assert_one_line(reqpool_command(running, "redis", f"redis://{address}", "PING"), address, "refused")
    assert_one_line(reqpool_command(running, "mysql", f"mysql://app@{address}", "SELECT 1"), "refused")


# --- redis -----------------------------------------------------------------------------------------


def test_redis_prints_replies_for_programs_and_for_people(
    running: Cluster, redis_server: RedisServer
) -> None:
    redis_server.command("DEL", "k", "list")
    redis_server.command("RPUSH", "list", "a", b"\xff\n", "-1")
    for arguments, printed in [
        (("SET", "k", "né"), b"OK\n"),
        (("GET", "k"), "né\n".encode()),
        (("GET", "none"), b"\n"),
        (("LRANGE", "list", "0", "-1"), b"a\n\xff\n\n-1\n"),
        (("STRLEN", "k"), b"3\n"),
    ]:
        done = reqpool_command(running, "redis", redis_server.url, *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, printed, b"")
    done = reqpool_command(running, "redis", "--no-raw", redis_server.url, "LRANGE", "list", "0", "-1")
    assert done.stdout == b'1) "a"\n2) "\\xff\\n"\n3) "-1"\n'


def test_redis_errors_are_one_line(running: Cluster, redis_server: RedisServer) -> None:
    redis_server.command("SET", "text", "x")
    assert_one_line(
        reqpool_command(running, "redis", redis_server.url, "INCR", "text"), "ERR value is not an int"
    )
    assert_one_line(reqpool_command(running, "redis", redis_server.url, "SUBSCRIBE", "x"), "SUBSCRIBE")
    assert reqpool_command(running, "redis", redis_server.url).returncode == 2


def test_a_password_comes_from_a_file_or_the_environment_and_tls_is_verified(
    running: Cluster, tmp_path: Path
) -> None:
    certificates = make(tmp_path)
    (tmp_path / "password").write_text("top\n")
    with RedisServer("requirepass top", password="top", tls=certificates.server) as redis:
        ping = (f"rediss://{redis.tls_address}", "PING")
        from_file = ("redis", "--password-file", f"{tmp_path}/password")
        good = reqpool_command(running, *from_file, "--ca", str(certificates.ca), *ping)
        assert (good.stdout, good.stderr) == (b"PONG\n", b"")
        careless = reqpool_command(running, "redis", "--insecure", *ping, REQPOOL_PASSWORD="top")
        assert (careless.stdout, careless.stderr) == (b"PONG\n", b"")
        assert_one_line(reqpool_command(running, *from_file, *ping), "certificate")
        wrong = reqpool_command(running, "redis", "--insecure", *ping, REQPOOL_PASSWORD="wrong")
        assert_one_line(wrong, "WRONGPASS")
        assert b"wrong:" not in wrong.stderr


# --- mysql -----------------------------------------------------------------------------------------


def test_mysql_prints_rows_under_a_header(running: Cluster, mariadb: MariadbServer) -> None:
    columns = (
        "%s AS a",
        "'x\ty' AS `b c`",
        "NULL AS n",
        "X'00ff' AS raw",
        "CAST('12:00:00' AS TIME) AS t",
        "'ü%%' AS u",
    )
    done = reqpool_command(running, "mysql", mariadb.url(), f"SELECT {', '.join(columns)}", "it's")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "a\tb c\tn\traw\tt\tu\nit's\tx\\ty\tNULL\t0x00FF\t12:00:00\tü%\n"
    rows = "SELECT 1 UNION SELECT 2"
    assert reqpool_command(running, "mysql", "--no-header", mariadb.url(), rows).stdout == b"1\n2\n"


def test_mysql_says_what_a_statement_did(running: Cluster, mariadb: MariadbServer) -> None:
    mariadb.run(
        "CREATE OR REPLACE TABLE cli (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(3))",
        "CREATE OR REPLACE PROCEDURE cli_two() BEGIN SELECT 1 AS one; SELECT 2 AS two; END",
    )
    done = reqpool_command(running, "mysql", mariadb.url(), "INSERT INTO cli (v) VALUES (%s), (%s)", "a", "b")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.startswith(b"2 rows affected, last id 1")
    done = reqpool_command(running, "mysql", mariadb.url(), "CALL cli_two()")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\n1\n\ntwo\n2\n", b"0 rows affected\n")


def test_mysql_errors_are_one_line(running: Cluster, mariadb: MariadbServer) -> None:
    broken = reqpool_command(running, "mysql", mariadb.url(), "SELECT\nnonsense\nFROM")
    assert_one_line(broken, "1064 (42000)")
    nobody = mariadb.url(password="")
    assert_one_line(reqpool_command(running, "mysql", nobody, "SELECT 1", REQPOOL_PASSWORD="wrong"), "1045")
    good = reqpool_command(running, "mysql", nobody, "SELECT 1", REQPOOL_PASSWORD=PASSWORD)
    assert (good.stdout, good.stderr) == (b"1\n1\n", b"")
