"""Redis through a whole cluster, against peers that do not behave: never a wrong reply to the next caller."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import reqpool
from support.certificates import make
from support.cluster import Cluster, cluster
from support.redis_peer import bulk, commands
from support.tcp_peer import Connection, Script, TcpPeer, closes_at_once
from support.wait import wait_until

GET = ("GET", "k")


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    # One worker: what a test sends while a reply is outstanding goes to the same connection.
    with cluster(workers=1) as started, started.no_fds_left():
        yield started


def url(peer: TcpPeer) -> str:
    return f"redis://{peer.address}"


# --- scripts -----------------------------------------------------------------------------------------


def echoes_keys(connection: Connection) -> None:
    """Answer each command with its last word: a reply that goes to another one is noticed."""
    for words in commands(connection):
        connection.send(bulk(words[-1]))


def answers(data: bytes, then: Callable[[Connection], None] = Connection.wait_for_end) -> Script:
    """Answer the first command of the first connection with ``data``, go on as told; others are echoed."""

    def script(connection: Connection) -> None:
        if connection.peer.accepted > 1:
            echoes_keys(connection)
            return
        next(commands(connection))
        connection.send(data)
        then(connection)

    return script


def closes(connection: Connection) -> None:
    """Say no more."""


def drips(data: bytes) -> Script:
    """Answer with one byte, and each further one only when the test calls ``peer.go.release()``."""

    def script(connection: Connection) -> None:
        for words in commands(connection):
            for at in range(len(data)):
                if at and not connection.peer.wait_for_go():
                    return
                connection.send(data[at : at + 1])
            assert words

    return script


def check_next_is_right(pool: reqpool.Pool, peer: TcpPeer) -> None:
    """Whoever comes next gets what is his own, on another connection."""
    assert [pool.redis(url(peer), "GET", f"k{at}").result() for at in range(3)] == [b"k0", b"k1", b"k2"]
    assert peer.accepted == 2


# --- what comes instead of a reply -------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\x01\x02\x03",
        b"$5\r\nhel\r\n+OK\r\n:1\r\n",
        b"$3\r\nhello\r\n",
        b"$-7\r\n",
        b"*2\r\n$1\r\na\r\nx",
        b"$%d\r\n" % (1 << 40),
        b"$999999999\r\n",
        b"*999999999\r\n",
        b">2\r\n+message\r\n+x\r\n",
    ],
    ids=lambda data: repr(data[:16]),
)
def test_what_is_no_reply_is_a_bad_response_and_the_end_of_the_connection(
    pool: reqpool.Pool, data: bytes
) -> None:
    with TcpPeer(answers(data)) as peer:
        with pytest.raises(reqpool.BadResponse) as caught:
            pool.redis(url(peer), "SET", "k", "v").result()
        assert caught.value.sent is True
        assert caught.value.origin == f"redis://{peer.address}/0"
        check_next_is_right(pool, peer)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"$17000000\r\n" + bytes(17_000_000) + b"\r\n", "larger than 16777216 bytes"),
        (b"+" + b"x" * 17_000_000 + b"\r\n", "larger than 16777216 bytes"),
        (b"*2\r\n" * 500 + b":1\r\n" * 501, "more than 128 nested arrays"),
        (b",1.5.5\r\n", r"not a Redis value: b',1\.5\.5'"),
        (b"#maybe\r\n", "not a Redis value: b'#maybe'"),
    ],
    ids=["too large", "a long line", "too deep", "not a double", "not a boolean"],
)
def test_a_reply_that_is_refused_costs_only_the_one_who_asked_for_it(
    pool: reqpool.Pool, reply: bytes, says: str
) -> None:
    def answers_together(connection: Connection) -> None:
        asked = commands(connection)
        keys = [next(asked)[1] for _ in range(5)]
        replies = [bulk(key) for key in keys]
        replies[2] = reply
        connection.send(b"".join(replies))
        for words in asked:
            connection.send(bulk(words[-1]))

    with TcpPeer(answers_together) as peer:
        futures = [pool.redis(url(peer), "INCR", "k0")]
        wait_until(lambda: b"k0" in peer.received, 5, "the first is sent")
        futures += [pool.redis(url(peer), "INCR", f"k{at}") for at in range(1, 5)]
        with pytest.raises(reqpool.BadResponse, match=says) as caught:
            futures.pop(2).result()
        assert (caught.value.sent, caught.value.phase) == (True, "read")
        assert [future.result() for future in futures] == [b"k0", b"k1", b"k3", b"k4"]
        assert pool.redis(url(peer), "GET", "k9").result() == b"k9"
        assert peer.accepted == 1


def test_who_times_out_while_its_reply_is_skipped_takes_no_answer_from_others(pool: reqpool.Pool) -> None:
    def dawdles(connection: Connection) -> None:
        if connection.peer.accepted > 1:
            echoes_keys(connection)
            return
        asked = commands(connection)
        keys = [next(asked)[1] for _ in range(3)]
        connection.send(b"$17000000\r\n" + bytes(9_000_000))
        if connection.peer.wait_for_go():
            connection.send(bytes(8_000_000) + b"\r\n" + bulk(keys[1]) + bulk(keys[2]))
            connection.wait_for_end()

    with TcpPeer(dawdles) as peer:
        first = pool.redis(url(peer), "INCR", "k0", timeout=0.5)
        wait_until(lambda: b"k0" in peer.received, 5, "the first is sent")
        others = [pool.redis(url(peer), "INCR", f"k{at}") for at in (1, 2)]
        with pytest.raises(reqpool.RequestTimeout):
            first.result()
        peer.go.release()
        assert [future.result() for future in others] == [b"k1", b"k2"]


@pytest.mark.parametrize(
    "command", [("EVAL", "return redis.error_reply(ARGV[1])", 0, "x"), ("NOSUCH", "no\r\n$6\r\nforged")]
)
def test_a_line_end_in_an_error_forges_nobodys_reply(pool: reqpool.Pool, command: tuple[str, ...]) -> None:
    def forges(connection: Connection) -> None:
        for words in commands(connection):
            if words[0] == b"GET":
                connection.send(bulk(words[1]))
            elif connection.peer.wait_for_go():
                connection.send(b"-ERR no\r\n$6\r\nforged\r\n")

    with TcpPeer(forges) as peer:
        forging = pool.redis(url(peer), *command)
        wait_until(lambda: command[0].encode() in peer.received, 5, "it is sent")
        others = [pool.redis(url(peer), "GET", f"k{at}") for at in range(5)]
        assert [future.result() for future in others] == [b"k%d" % at for at in range(5)]
        peer.go.release()
        with pytest.raises(reqpool.BadResponse, match="more than the reply to this command"):
            forging.result()
        wait_until(lambda: peer.open < peer.accepted, 5, "that connection closed")


def test_what_comes_late_behind_an_error_forges_nobodys_reply(pool: reqpool.Pool) -> None:
    def forges_late(connection: Connection) -> None:
        for words in commands(connection):
            if words[0] == b"EVAL" and words[1] == b"1":
                connection.send(b"-ERR no\r\n")
                if connection.peer.wait_for_go():
                    connection.send(b"$6\r\nforged\r\n")
            else:
                connection.send(bulk(words[1]))

    with TcpPeer(forges_late) as peer:
        with pytest.raises(reqpool.RedisError):
            pool.redis(url(peer), "EVAL", "1", 0).result()
        following = pool.redis(url(peer), "EVAL", "2", 0)
        assert following.result() == b"2"
        peer.go.release()
        assert pool.redis(url(peer), "EVAL", "3", 0).result() == b"3"


@pytest.mark.parametrize("then", [closes, Connection.reset], ids=["closes", "resets"])
@pytest.mark.parametrize("data", [b"", b"$", b"$5\r\nhel", b"*2\r\n$1\r\na\r\n", b"+OK\r"], ids=repr)
def test_a_close_in_the_middle_is_connection_lost_and_nothing_is_repeated(
    pool: reqpool.Pool, data: bytes, then: Callable[[Connection], None]
) -> None:
    with TcpPeer(answers(data, then)) as peer:
        with pytest.raises(reqpool.ConnectionLost) as caught:
            pool.redis(url(peer), "INCR", "k").result()
        assert caught.value.sent is True
        assert peer.received.count(b"INCR") == 1
        check_next_is_right(pool, peer)


def test_a_peer_that_drips_does_not_outlast_the_timeout(pool: reqpool.Pool) -> None:
    with TcpPeer(drips(bulk(b"x" * 1_000))) as peer:
        began_s = time.monotonic()
        future = pool.redis(url(peer), *GET, timeout=1.0)
        while not future.done():
            peer.go.release()
            time.sleep(0.01)
        with pytest.raises(reqpool.RequestTimeout) as caught:
            future.result()
        assert caught.value.phase == "read"
        assert time.monotonic() - began_s < 4
        for _ in range(3):  # two bytes tell its script
            peer.go.release()
        peer.wait_all_closed()


def test_a_reply_that_comes_in_drips_is_a_reply(pool: reqpool.Pool) -> None:
    reply = b"*3\r\n" + bulk(b"hello") + b":12\r\n$-1\r\n"
    with TcpPeer(drips(reply)) as peer:
        future = pool.redis(url(peer), *GET)
        for _ in reply:
            peer.go.release()
        assert future.result() == [b"hello", 12, None]


# --- replies that belong to nobody, or to somebody else ----------------------------------------------


@pytest.mark.parametrize("extra", [b"+OK\r\n", b"$5\r\nhel", b"*3\r\n+message\r\n+a\r\n+b\r\n"], ids=repr)
def test_what_nobody_asked_for_never_answers_the_next_one(pool: reqpool.Pool, extra: bytes) -> None:
    with TcpPeer(answers(bulk(b"mine") + extra)) as peer:
        assert pool.redis(url(peer), *GET).result() == b"mine"
        wait_until(lambda: peer.open == 0, 5, "the connection closed")
        check_next_is_right(pool, peer)


def test_what_comes_unasked_between_two_commands_closes_the_connection(pool: reqpool.Pool) -> None:
    def speaks_up(connection: Connection) -> None:
        connection.peer.wait_for_go()
        connection.send(bulk(b"for nobody"))
        connection.wait_for_end()

    with TcpPeer(answers(bulk(b"mine"), speaks_up)) as peer:
        assert pool.redis(url(peer), *GET).result() == b"mine"
        peer.go.release()
        wait_until(lambda: peer.open == 0, 5, "the connection closed")
        check_next_is_right(pool, peer)


@pytest.mark.parametrize("how", ["times out", "is cancelled"])
def test_a_late_reply_goes_to_nobody(pool: reqpool.Pool, how: str) -> None:
    """Commands behind one that was given up still get their own replies, in order; then nobody else does."""

    def answers_late(connection: Connection) -> None:
        if connection.peer.accepted > 1:
            echoes_keys(connection)
            return
        asked = commands(connection)
        keys = [next(asked)[-1] for _ in range(4)]
        if connection.peer.wait_for_go():
            connection.send(b"".join(map(bulk, keys)))
            for words in asked:
                connection.send(bulk(words[-1]))

    with TcpPeer(answers_late) as peer:
        first = pool.redis(url(peer), "GET", "k0", timeout=0.5 if how == "times out" else 5)
        wait_until(lambda: b"k0" in peer.received, 5, "the first is sent")
        others = [pool.redis(url(peer), "GET", f"k{at}") for at in range(1, 4)]
        wait_until(lambda: b"k3" in peer.received, 5, "all are sent on one connection")
        if how == "is cancelled":
            first.cancel()
        with pytest.raises((reqpool.RequestTimeout, reqpool.Cancelled)):
            first.result()
        after = pool.redis(url(peer), "GET", "k9")
        peer.go.release()
        assert [future.result() for future in others] == [b"k1", b"k2", b"k3"]
        assert after.result() == b"k9"
        if how == "times out":  # a cancel may come too late to the worker
            wait_until(lambda: peer.accepted == 2 and peer.open == 1, 5, "the one that owed a reply closed")
        assert pool.redis(url(peer), "GET", "k8").result() == b"k8"


def test_one_bad_reply_fails_what_is_behind_it_on_that_connection_and_nothing_is_mixed_up(
    pool: reqpool.Pool,
) -> None:
    def one_bad(connection: Connection) -> None:
        if connection.peer.accepted > 1:
            echoes_keys(connection)
            return
        asked = commands(connection)
        words = [next(asked)[1] for _ in range(4)]
        connection.send(bulk(words[0]) + b"$9\r\nnot nine\r\n" + bulk(words[2]) + bulk(words[3]))
        connection.wait_for_end()

    with TcpPeer(one_bad) as peer:
        first = pool.redis(url(peer), "SET", "k0", "v", timeout=5)
        wait_until(lambda: b"k0" in peer.received, 5, "the first is sent")
        futures = [first] + [pool.redis(url(peer), "SET", f"k{at}", "v") for at in range(1, 4)]
        assert futures[0].result() == b"k0"
        with pytest.raises(reqpool.BadResponse):
            futures[1].result()
        for future in futures[2:]:
            with pytest.raises(reqpool.ConnectionLost) as caught:
                future.result()
            assert caught.value.sent is True
        assert peer.accepted == 1
        check_next_is_right(pool, peer)


# --- kept connections --------------------------------------------------------------------------------


def dies_on_the_second(connection: Connection) -> None:
    """Answer one command; close when a second one comes, without a word. Later connections are echoed."""
    if connection.peer.accepted > 1:
        echoes_keys(connection)
        return
    asked = commands(connection)
    connection.send(bulk(next(asked)[-1]))
    next(asked)


def test_a_kept_connection_that_dies_before_the_reply_is_tried_again_if_that_may_be(
    pool: reqpool.Pool,
) -> None:
    with TcpPeer(dies_on_the_second) as peer:
        assert pool.redis(url(peer), *GET).result() == b"k"
        assert pool.redis(url(peer), "GET", "again").result() == b"again"
        assert peer.accepted == 2


def test_a_command_that_changes_data_is_not_tried_again(pool: reqpool.Pool) -> None:
    with TcpPeer(dies_on_the_second) as peer:
        assert pool.redis(url(peer), *GET).result() == b"k"
        with pytest.raises(reqpool.ConnectionLost) as caught:
            pool.redis(url(peer), "INCR", "n").result()
        assert caught.value.sent is True
        assert peer.received.count(b"INCR") == 1


def test_a_command_that_may_be_repeated_says_so(pool: reqpool.Pool) -> None:
    with TcpPeer(dies_on_the_second) as peer:
        assert pool.redis(url(peer), *GET).result() == b"k"
        assert pool.redis(url(peer), "SET", "k", "same", idempotent=True).result() == b"same"


# --- the handshake -----------------------------------------------------------------------------------


def greets_with(data: bytes) -> Script:
    def script(connection: Connection) -> None:
        connection.read()
        connection.send(data)
        connection.wait_for_end()

    return script


@pytest.mark.parametrize(
    ("script", "error", "says"),
    [
        (
            greets_with(b"-ERR max number of clients reached\r\n"),
            reqpool.ConnectFailed,
            "max number of clients",
        ),
        (greets_with(b"SSH-2.0-OpenSSH_9.2\r\n"), reqpool.BadResponse, "not a Redis reply: b'SSH-2.0"),
        (closes_at_once, reqpool.ConnectFailed, "peer"),
        (Connection.wait_for_end, reqpool.RequestTimeout, "within"),
    ],
    ids=["full", "ssh", "closes", "is silent"],
)
def test_a_handshake_that_fails_says_why(
    pool: reqpool.Pool, script: Script, error: type[reqpool.PoolError], says: str
) -> None:
    with TcpPeer(script) as peer:
        with pytest.raises(error, match=says) as caught:
            pool.redis(url(peer), "INCR", "k", timeout=1.0).result()
        assert not caught.value.sent
        assert b"INCR" not in peer.received
        peer.wait_all_closed()


def test_a_server_that_closes_during_the_handshake_for_a_moment_is_waited_for(pool: reqpool.Pool) -> None:
    def starts_up(connection: Connection) -> None:
        if connection.peer.accepted > 4:
            echoes_keys(connection)

    with TcpPeer(starts_up) as peer:
        assert pool.redis(url(peer), "INCR", "k", timeout=10).result() == b"k"
        assert peer.received.count(b"INCR") == 1


def twemproxy(connection: Connection) -> None:
    """Close on a command that it does not know, without a word."""
    while data := connection.read():
        if any(word in data for word in (b"CLIENT", b"SELECT", b"HELLO")):
            return
        connection.send(b"+PONG\r\n" * data.count(b"PING"))


def test_a_proxy_that_closes_on_the_name_is_used_without_it(pool: reqpool.Pool) -> None:
    with TcpPeer(twemproxy) as peer:
        for _ in range(2):
            assert pool.redis(url(peer), "PING").result() == b"PONG"
        assert peer.received.count(b"CLIENT") == 1
        # Of a connection of another sort, too: the server is the same.
        with pool.redis_session(url(peer)) as session:
            assert session.command("PING").result() == b"PONG"
        assert peer.received.count(b"CLIENT") == 1


@pytest.mark.parametrize("says_so", [True, False], ids=["close_notify", "cut off"])
def test_a_proxy_that_closes_on_the_name_is_used_without_it_over_tls(
    pool: reqpool.Pool, tmp_path: Path, says_so: bool
) -> None:
    certificates = make(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server)

    def script(connection: Connection) -> None:
        # Of a copy: what wraps a socket takes it, and the peer could not end it any more.
        with context.wrap_socket(connection.sock.dup(), server_side=True) as connection.sock:
            twemproxy(connection)
            if says_so:
                with contextlib.suppress(OSError):
                    connection.sock.unwrap()

    tls = reqpool.Tls(ca=str(certificates.ca))
    with TcpPeer(script) as peer:
        for _ in range(2):
            assert pool.redis(f"rediss://{peer.address}", "PING", tls=tls).result() == b"PONG"
        assert peer.received.count(b"CLIENT") == 1


def test_a_proxy_that_closes_on_what_is_needed_is_a_failure_soon(pool: reqpool.Pool) -> None:
    with TcpPeer(twemproxy) as peer:
        with pytest.raises(reqpool.ConnectFailed) as caught:
            pool.redis(url(peer) + "/3", "PING", timeout=10).result()
        assert caught.value.sent is False


# --- transactions ------------------------------------------------------------------------------------


def test_a_connection_lost_in_a_transaction_is_lost(pool: reqpool.Pool) -> None:
    with TcpPeer(answers(b"+OK\r\n+QUEUED\r\n", closes)) as peer:
        with pytest.raises(reqpool.ConnectionLost) as caught:
            pool.redis_multi(url(peer), [("INCR", "a"), ("INCR", "b")]).result()
        assert caught.value.sent is True
        assert peer.received.count(b"MULTI") == 1
        check_next_is_right(pool, peer)


def test_a_session_whose_connection_dies_says_so_for_good(pool: reqpool.Pool) -> None:
    with TcpPeer(dies_on_the_second) as peer, pool.redis_session(url(peer)) as session:
        assert session.command("WATCH", "k").result() == b"k"
        with pytest.raises(reqpool.ConnectionLost):
            session.command("GET", "k").result()
        with pytest.raises(reqpool.ConnectionLost, match="pinned to this session is lost"):
            session.command("MULTI").result()
        assert peer.accepted == 1
