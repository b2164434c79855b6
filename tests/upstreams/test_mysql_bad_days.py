"""MySQL through a whole cluster, on bad days: servers that go, refuse, lie, drip; callers that give up.

Never a wrong answer to the next caller.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import reqpool
from support import mysql_peer as peer
from support.certificates import Certificates, make
from support.cluster import Cluster, cluster
from support.mariadb import MariadbServer
from support.mysql_peer import (
    AUTOCOMMIT,
    MORE_RESULTS,
    err,
    log_in,
    ok,
    packet,
    packets,
    read_packet,
    rows,
    serves,
)
from support.tcp_peer import Connection, Script, TcpPeer, closes_at_once
from support.wait import wait_until

PASSWORD = "pässwort"


TIMEOUT_S = 10.0
"""Of ``pool``: see conftest.py."""


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    # One worker: what a test sends while an answer is outstanding goes to the same pool of connections.
    with cluster(workers=1) as started, started.no_fds_left():
        yield started


def url(server: TcpPeer, scheme: str = "mysql") -> str:
    return f"{scheme}://me@{server.address}/db"


def echo(command: bytes, _: Connection | None = None) -> bytes:
    """Answer with the statement itself: an answer that goes to another one is noticed."""
    return packets(1, rows(["sql"], [(command[1:],)]))


def echoes(connection: Connection) -> None:
    serves(echo)(connection)


def first_gets(data: bytes, then: Callable[[Connection], None] = Connection.wait_for_end) -> Script:
    """Answer the first connection's first statement with ``data``, go on as told; other connections echo."""

    def script(connection: Connection) -> None:
        if connection.peer.accepted > 1:
            echoes(connection)
            return
        log_in(connection)
        read_packet(connection)
        connection.send(data)
        then(connection)

    return script


def still_serves(pool: reqpool.Pool, server: TcpPeer) -> None:
    """The next callers get their own answers, by a connection of their own."""
    wait_until(lambda: server.open == 0, 10, "the connection closed")
    answers = {number: pool.mysql(url(server), f"SELECT {number}") for number in range(50)}
    for number, answer in answers.items():
        assert answer.result().rows == [(f"SELECT {number}",)]


ROWS = packets(1, rows(["a"], [(b"1",), (b"2",)]))

# --- answers that are none ---------------------------------------------------------------------------

NOT_ANSWERS = {
    "garbage": b"\x13\x37 certainly not MySQL",
    "a wrong number": packet(7, ok()),
    "an empty packet": packet(1, b""),
    "half an OK": packet(1, b"\0\0"),
    "a file asked for": packet(1, b"\xfb/etc/passwd"),
    "too many columns": packet(1, b"\xfd\xff\xff\xff"),
    "a number left out": packets(1, rows(["a"], [(b"1",)])[:3]) + packet(5, ok(ends_rows=True)),
    "a length over the limit": packets(1, rows(["a"], [])[:2]) + b"\xff\xff\xff\x03" + b"x" * 100,
    "half an ERR": packet(1, b"\xff\x01"),
}
"""An answer over the limit is refused by its length alone, before its bytes come; the limit is 16 MiB."""


@pytest.mark.parametrize("name", NOT_ANSWERS)
def test_what_is_no_answer_is_a_bad_response_and_the_connection_closed(pool: reqpool.Pool, name: str) -> None:
    with TcpPeer(first_gets(NOT_ANSWERS[name])) as server:
        if name == "a length over all limits":  # 16 MB less one byte: it goes on, and that is too much
            server_sends = (
                packets(1, rows(["a"], [])[:2]) + b"\xff\xff\xff\x03" + bytes(0xFFFFFF) + b"\xff\xff\xff\x04"
            )
            server._script = first_gets(server_sends)
        with pytest.raises(reqpool.BadResponse) as caught:
            pool.mysql(url(server), "SELECT 'me'").result()
        assert (caught.value.phase, caught.value.sent) == ("read", True)
        still_serves(pool, server)


def test_a_reset_that_fails_after_a_session_is_nobodys_error(pool: reqpool.Pool) -> None:
    def answers(command: bytes, _: Connection) -> bytes:
        if command[:1] == b"\x1f":  # COM_RESET_CONNECTION
            return packet(1, err(1047, b"08S01", b"Unknown command"))
        return packet(1, ok()) if command[1:4] == b"SET" else echo(command)

    with TcpPeer(serves(answers)) as server:
        for _ in range(20):
            session = pool.mysql_session(url(server))
            session.query("SELECT 'held'").result()
            session.close()
            assert pool.mysql(url(server), "SELECT 'shared'").result().rows == [("SELECT 'shared'",)]


def test_values_that_lie_about_their_length_are_a_bad_response_and_nobody_elses(pool: reqpool.Pool) -> None:
    """The packets are whole, so the connection goes on; what is in them is looked at by the caller."""
    lies = [*rows(["a"], [])[:2], b"\xfcab", ok(ends_rows=True)]
    with TcpPeer(
        serves(lambda command, _: packets(1, lies) if b"lie" in command else echo(command))
    ) as server:
        lie, other = pool.mysql(url(server), "SELECT lie"), pool.mysql(url(server), "SELECT 1")
        with pytest.raises(reqpool.BadResponse):
            _ = lie.result().rows
        assert other.result().rows == [("SELECT 1",)]


@pytest.mark.parametrize("length", [0, 3, 5, len(ROWS) // 2, len(ROWS) - 1])
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_connection_that_breaks_in_an_answer_is_lost(pool: reqpool.Pool, length: int, how: str) -> None:
    then = Connection.reset if how == "resets" else (lambda _: None)
    with TcpPeer(first_gets(ROWS[:length], then)) as server:
        with pytest.raises(reqpool.ConnectionLost) as caught:
            pool.mysql(url(server), "INSERT INTO t VALUES (1)").result()
        assert caught.value.sent is True
        still_serves(pool, server)


def test_what_must_not_be_repeated_is_not_and_what_may_be_is(pool: reqpool.Pool) -> None:
    def script(connection: Connection) -> None:
        log_in(connection)
        if connection.peer.accepted == 1:
            _, command = read_packet(connection)
            connection.send(echo(command))
            read_packet(connection)
            return  # the second statement on the kept connection: it closes
        while True:
            connection.send(echo(read_packet(connection)[1]))

    for idempotent in (False, True):
        with TcpPeer(script) as server:
            assert pool.mysql(url(server), "SELECT 1").result().rows == [("SELECT 1",)]
            answer = pool.mysql(url(server), "SELECT 2", idempotent=idempotent)
            if idempotent:
                assert answer.result().rows == [("SELECT 2",)]
            else:
                with pytest.raises(reqpool.ConnectionLost):
                    answer.result()
            assert server.received.count(b"SELECT 2") == 1 + idempotent


def test_a_server_that_says_good_bye_instead_of_an_answer(pool: reqpool.Pool) -> None:
    """go-sql-driver#1393: number 0 was sent before the statement was read: it runs on another connection."""
    good_bye = packet(
        0, err(4031, b"HY000", b"The client was disconnected by the server because of inactivity")
    )
    with TcpPeer(first_gets(good_bye)) as server:
        assert pool.mysql(url(server), "INSERT").result().rows == [("INSERT",)]
        assert server.received.count(b"\x03INSERT") == 2


def test_a_server_that_says_nothing_but_good_bye_has_read_no_statement(pool: reqpool.Pool) -> None:
    def script(connection: Connection) -> None:
        log_in(connection)
        read_packet(connection)
        connection.send(packet(0, err(1053, b"08S01", b"Server shutdown in progress")))

    with TcpPeer(script) as server:
        with pytest.raises(reqpool.ConnectionLost, match="Server shutdown in progress") as caught:
            pool.mysql(url(server), "INSERT").result()
        assert caught.value.sent is False
        assert server.accepted > 1


def test_a_good_bye_to_a_session_ends_it_and_says_that_the_statement_was_not_read(pool: reqpool.Pool) -> None:
    def answers(command: bytes, _: Connection) -> bytes:
        if command == b"\x03INSERT":
            return packet(0, err(4031, b"HY000", b"inactivity"))
        return packet(1, ok()) if command[1:4] == b"SET" else echo(command)

    with TcpPeer(serves(answers)) as server:
        session = pool.mysql_session(url(server))
        session.query("SELECT 'held'").result()
        with pytest.raises(reqpool.ConnectionLost, match="inactivity") as caught:
            session.query("INSERT").result()
        assert caught.value.sent is False
        with pytest.raises(reqpool.ConnectionLost, match="pinned to this session is lost"):
            session.query("SELECT 'held'").result()
        assert server.received.count(b"\x03INSERT") == 1
        assert pool.mysql(url(server), "SELECT 1").result().rows == [("SELECT 1",)]


def test_a_good_bye_to_a_sessions_first_statement_opens_the_session_elsewhere(pool: reqpool.Pool) -> None:
    def answers(command: bytes, connection: Connection) -> bytes:
        if command == b"\x03INSERT" and connection.peer.accepted == 1:
            return packet(0, err(4031, b"HY000", b"inactivity"))
        return packet(1, ok()) if command[1:4] == b"SET" or command[:1] == b"\x1f" else echo(command)

    with TcpPeer(serves(answers)) as server:
        session = pool.mysql_session(url(server))
        assert session.query("INSERT").result().rows == [("INSERT",)]
        assert session.query("SELECT 2").result().rows == [("SELECT 2",)]
        session.close()
        assert server.accepted == 2


def test_an_error_that_is_no_good_bye_may_have_run_and_is_not_asked_again(pool: reqpool.Pool) -> None:
    with TcpPeer(first_gets(packet(0, err(1064, b"42000", b"said so")))) as server:
        with pytest.raises(reqpool.MysqlError, match="said so"):
            pool.mysql(url(server), "INSERT").result()
        assert server.received.count(b"\x03INSERT") == 1
        still_serves(pool, server)


def test_a_silent_peer_is_said_to_be_silent(pool: reqpool.Pool) -> None:
    """An HTTP server waits for the client to speak first."""
    with (
        TcpPeer(Connection.wait_for_end) as server,
        pytest.raises(reqpool.ConnectFailed, match="a MySQL server speaks first"),
    ):
        pool.mysql(url(server), "SELECT 1").result()


def test_a_silent_peer_is_said_to_be_silent_when_the_request_has_less_time(pool: reqpool.Pool) -> None:
    with (
        TcpPeer(Connection.wait_for_end) as server,
        pytest.raises(reqpool.RequestTimeout, match="a MySQL server speaks first") as caught,
    ):
        pool.mysql(url(server), "SELECT 1", timeout=0.5).result()
    assert (caught.value.phase, caught.value.sent) == ("connect", False)


def test_an_http_server_is_said_not_to_speak_mysql(pool: reqpool.Pool) -> None:
    def script(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with (
        TcpPeer(script) as server,
        pytest.raises(reqpool.BadResponse, match=r"does not speak MySQL.*HTTP/1\.1"),
    ):
        pool.mysql(url(server), "SELECT 1").result()


def test_bytes_behind_an_answer_are_nobodys(pool: reqpool.Pool) -> None:
    with TcpPeer(first_gets(ROWS + packets(1, rows(["a"], [(b"wrong",)])))) as server:
        assert pool.mysql(url(server), "SELECT a").result().rows == [("1",), ("2",)]
        still_serves(pool, server)


def test_more_results_that_never_come_are_a_timeout(pool: reqpool.Pool) -> None:
    with TcpPeer(first_gets(packet(1, ok(AUTOCOMMIT | MORE_RESULTS)))) as server:
        with pytest.raises(reqpool.RequestTimeout) as caught:
            pool.mysql(url(server), "CALL p()", timeout=1.0).result()
        assert (caught.value.phase, caught.value.sent) == ("read", True)
        still_serves(pool, server)


def test_results_without_end_are_a_bad_response(pool: reqpool.Pool) -> None:
    def floods(connection: Connection) -> None:
        number = 1
        while True:
            connection.send(packets(number, [ok(AUTOCOMMIT | MORE_RESULTS)] * 5_000))
            number += 5_000

    with TcpPeer(first_gets(b"", floods)) as server:
        with pytest.raises(reqpool.BadResponse, match="longer than 16777216 bytes"):
            pool.mysql(url(server), "SELECT 1").result()
        still_serves(pool, server)


def test_an_answer_that_drips_is_whole_or_a_timeout(pool: reqpool.Pool) -> None:
    def drips(connection: Connection) -> None:
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(1, len(ROWS)):
            if not connection.peer.wait_for_go():
                return
            connection.send(ROWS[at : at + 1])
        connection.wait_for_end()

    with TcpPeer(first_gets(ROWS[:1], drips)) as server:
        answer = pool.mysql(url(server), "SELECT a")
        for _ in range(len(ROWS)):
            server.go.release()
        assert answer.result().rows == [("1",), ("2",)]
    with TcpPeer(first_gets(ROWS[:1], drips)) as server:
        with pytest.raises(reqpool.RequestTimeout):
            pool.mysql(url(server), "SELECT a", timeout=1.0).result()
        for _ in range(len(ROWS)):
            server.go.release()
        still_serves(pool, server)


# --- callers that give up ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["times out", "is cancelled"])
def test_a_request_that_is_given_up_never_leaves_its_answer_to_the_next(pool: reqpool.Pool, how: str) -> None:
    asked, late = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        if connection.peer.accepted > 1:
            echoes(connection)
            return
        log_in(connection)
        read_packet(connection)
        asked.set()
        late.wait(10)
        connection.send(packets(1, rows(["a"], [(b"the late answer",)])))
        # It may have come before the word that nobody wants it: then the connection is as good as new.
        while True:
            connection.send(echo(read_packet(connection)[1]))

    with TcpPeer(script) as server:
        answer = pool.mysql(url(server), "SELECT slowly", timeout=0.7 if how == "times out" else 10)
        assert asked.wait(5)
        if how == "is cancelled":
            assert answer.cancel()
        with pytest.raises((reqpool.RequestTimeout, reqpool.Cancelled)):
            answer.result()
        others = [pool.mysql(url(server), f"SELECT {number}") for number in range(20)]
        late.set()
        assert [other.result().rows[0][0] for other in others] == [f"SELECT {number}" for number in range(20)]


def test_a_slow_query_that_times_out_at_a_real_server(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    target = mariadb.url("odd", "s3cret&p@ss/wörd")
    slow = [pool.mysql(target, f"SELECT SLEEP(1.5), {number}", timeout=0.8) for number in range(5)]
    quick = [pool.mysql(target, "SELECT %s", (number,)) for number in range(100)]
    for answer in slow:
        with pytest.raises(reqpool.RequestTimeout):
            answer.result()
    after = [pool.mysql(target, "SELECT %s", (number,)) for number in range(100)]
    for answers in (quick, after):
        assert [answer.result().rows for answer in answers] == [[(number,)] for number in range(100)]


# --- servers that go ---------------------------------------------------------------------------------


def test_a_query_that_is_killed_is_its_error_and_the_connection_not_used_again(
    pool: reqpool.Pool, mariadb: MariadbServer
) -> None:
    answer = pool.mysql(mariadb.url(), "SELECT SLEEP(20) FROM DUAL WHERE 'killed' = 'killed'")
    find = "SELECT id FROM information_schema.processlist WHERE info LIKE '%killed%' AND user = 'app'"
    ((number,),) = wait_until(lambda: mariadb.run(find), 10, "it sleeps")
    mariadb.run(f"KILL QUERY {number}")
    outcome = answer.exception()
    # MariaDB's SLEEP() ends early without an error where nothing comes after it.
    assert outcome is None or (isinstance(outcome, reqpool.MysqlError) and outcome.number == 1317)
    if outcome is not None:
        wait_until(lambda: number not in mariadb.connections(), 10, "closed")
    assert pool.mysql(mariadb.url(), "SELECT 1").result().rows == [(1,)]


def test_a_connection_that_is_killed_in_a_query(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    answer = pool.mysql(mariadb.url(), "SELECT SLEEP(20) FROM DUAL WHERE 'killed' = 'killed'")
    find = "SELECT id FROM information_schema.processlist WHERE info LIKE '%killed%' AND user = 'app'"
    ((number,),) = wait_until(lambda: mariadb.run(find), 10, "it sleeps")
    mariadb.run(f"KILL {number}")
    with pytest.raises((reqpool.ConnectionLost, reqpool.MysqlError)) as caught:
        answer.result()
    if isinstance(caught.value, reqpool.MysqlError):
        assert caught.value.number in (1317, 1927)
    assert pool.mysql(mariadb.url(), "SELECT 1").result().rows == [(1,)]


def test_idle_connections_that_the_server_closes_are_not_used(
    pool: reqpool.Pool, mariadb: MariadbServer
) -> None:
    assert [pool.mysql(mariadb.url(), "SELECT 1") for _ in range(50)][-1].result()
    mariadb.close_connections()
    wait_until(lambda: not mariadb.connections(), 10, "all closed")
    answers = [pool.mysql(mariadb.url(), "SELECT %s", (number,), idempotent=True) for number in range(50)]
    assert [answer.result().rows for answer in answers] == [[(number,)] for number in range(50)]


def test_a_server_that_is_stopped_and_started_again_is_used_again(pool: reqpool.Pool) -> None:
    with MariadbServer() as server:
        target = server.url()
        assert pool.mysql(target, "SELECT 1").result().rows == [(1,)]
        slow = pool.mysql(target, "SELECT SLEEP(20)")
        wait_until(
            lambda: server.run("SELECT 1 FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'")
        )
        server.stop()
        outcome = slow.exception()
        assert outcome is None or isinstance(outcome, reqpool.ConnectionLost | reqpool.MysqlError)
        with pytest.raises((reqpool.ConnectFailed, reqpool.ConnectionLost)):
            pool.mysql(target, "SELECT 1").result()


# --- log-ins -----------------------------------------------------------------------------------------


def refuses(payload: bytes) -> Script:
    def script(connection: Connection) -> None:
        connection.send(packet(0, payload))
        connection.wait_for_end()

    return script


@pytest.mark.parametrize(
    ("payload", "error", "text"),
    [
        (err(1040, b"", b"Too many connections"), reqpool.ConnectFailed, "too many connections: Too many"),
        (err(1129, b"", b"Host 'x' is blocked"), reqpool.ConnectFailed, "host blocked: Host 'x' is blocked"),
        (b"\x09an old protocol\0", reqpool.BadResponse, "does not speak MySQL's protocol 10"),
        (peer.greeting(0x200), reqpool.ConnectFailed, "too old"),
    ],
)
def test_a_server_that_lets_nobody_in(
    pool: reqpool.Pool, payload: bytes, error: type[Exception], text: str
) -> None:
    with TcpPeer(refuses(payload)) as server:
        with pytest.raises(error, match=text):
            pool.mysql(url(server), "SELECT 1").result()
        server.wait_all_closed()


def test_too_many_connections_at_a_real_server(pool: reqpool.Pool) -> None:
    with MariadbServer("--max-connections=10") as server:
        held = [server.connect() for _ in range(11)]  # one more than the limit is kept for administrators
        try:
            with pytest.raises(reqpool.ConnectFailed, match="too many connections"):
                pool.mysql(server.url(), "SELECT 1").result()
        finally:
            for connection in held:
                connection.close()


@pytest.mark.parametrize("script", [closes_at_once, Connection.reset], ids=["closes", "resets"])
def test_a_server_that_closes_at_once(pool: reqpool.Pool, script: Script) -> None:
    with (
        TcpPeer(script) as server,
        pytest.raises(reqpool.ConnectFailed, match="a MySQL server speaks first") as caught,
    ):
        pool.mysql(url(server), "SELECT 1").result()
    assert caught.value.sent is False


def test_a_server_behind_a_port_forwarder_is_waited_for(pool: reqpool.Pool) -> None:
    """Docker's proxy, or a load balancer: takes the connection, and closes it while the server is down."""

    def script(connection: Connection) -> None:
        if server.accepted > 3:
            echoes(connection)

    with TcpPeer(script) as server:
        assert pool.mysql(url(server), "INSERT").result().rows == [("INSERT",)]
        assert server.received.count(b"\x03INSERT") == 1


def test_a_server_that_never_greets_is_a_timeout(pool: reqpool.Pool) -> None:
    with TcpPeer(Connection.wait_for_end) as server:
        with pytest.raises(reqpool.RequestTimeout) as caught:
            pool.mysql(url(server), "SELECT 1", timeout=1.0).result()
        assert (caught.value.phase, caught.value.sent) == ("connect", False)
        server.wait_all_closed()


# --- caching_sha2_password, which Debian's MariaDB has not -------------------------------------------


@pytest.fixture(scope="module")
def key() -> peer.RsaKey:
    return peer.RsaKey()


def sha2(key: peer.RsaKey, *, cached: bool, seen: list[bytes]) -> Script:
    """A MySQL 8 without TLS whose users have caching_sha2_password."""

    def script(connection: Connection) -> None:
        connection.send(packet(0, peer.greeting(plugin=b"caching_sha2_password")))
        number, response = read_packet(connection)
        assert b"caching_sha2_password" in response
        reply = response[32:].partition(b"\0")[2][1:33]  # behind the fixed part and the user's name
        known = peer.knows_caching_sha2(PASSWORD.encode(), peer.SALT, reply)
        if cached and known:
            connection.send(packet(number + 1, b"\x01\x03"))
            number += 1
        else:
            connection.send(packet(number + 1, b"\x01\x04"))
            number, asked = read_packet(connection)
            assert asked == b"\x02"
            connection.send(packet(number + 1, b"\x01" + key.pem))
            number, hidden = read_packet(connection)
            seen.append(key.password(hidden, peer.SALT))
            if seen[-1] != PASSWORD.encode() + b"\0":
                connection.send(packet(number + 1, err(1045, b"28000", b"Access denied")))
                return
        connection.send(packet(number + 1, ok()))
        read_packet(connection)
        connection.send(packet(1, ok()))
        while True:
            connection.send(echo(read_packet(connection)[1]))

    return script


@pytest.mark.parametrize("cached", [True, False], ids=["fast", "full"])
def test_caching_sha2_by_both_paths(pool: reqpool.Pool, key: peer.RsaKey, cached: bool) -> None:
    seen: list[bytes] = []
    with TcpPeer(sha2(key, cached=cached, seen=seen)) as server:
        target = f"mysql://me:{PASSWORD}@{server.address}/db"
        assert pool.mysql(target, "SELECT 1").result().rows == [("SELECT 1",)]
        assert seen == ([] if cached else [PASSWORD.encode() + b"\0"])
        assert PASSWORD.encode() not in server.received
        with pytest.raises(reqpool.ConnectFailed, match="access denied"):
            pool.mysql(f"mysql://me:wrong@{server.address}/db", "SELECT 1").result()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certificates"))


def test_caching_sha2_in_full_over_tls(pool: reqpool.Pool, certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server)
    seen: list[bytes] = []

    def script(connection: Connection) -> None:
        greeting = peer.greeting(peer.MODERN | peer.SSL, b"caching_sha2_password")
        connection.send(packet(0, greeting))
        read_packet(connection)
        # A duplicate: the peer's own has to be there for its end.
        with context.wrap_socket(connection.sock.dup(), server_side=True) as connection.sock:
            number, _ = read_packet(connection)
            connection.send(packet(number + 1, b"\x01\x04"))
            number, password = read_packet(connection)
            seen.append(password)
            connection.send(packet(number + 1, ok()))
            read_packet(connection)
            connection.send(packet(1, ok()))
            while True:
                connection.send(echo(read_packet(connection)[1]))

    with TcpPeer(script) as server:
        tls = reqpool.Tls(ca=str(certificates.ca))
        target = f"mysqls://me:{PASSWORD}@{server.address}/db"
        assert pool.mysql(target, "SELECT 1", tls=tls).result().rows == [("SELECT 1",)]
        assert seen == [PASSWORD.encode() + b"\0"]


# --- files -------------------------------------------------------------------------------------------


def test_a_server_that_asks_for_a_file_gets_nothing(pool: reqpool.Pool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("do not tell")
    with TcpPeer(first_gets(packet(1, b"\xfb" + str(secret).encode()))) as server:
        with pytest.raises(reqpool.BadResponse, match="LOCAL INFILE"):
            pool.mysql(url(server), "SELECT 1").result()
        server.wait_all_closed()
        assert b"do not tell" not in server.received
