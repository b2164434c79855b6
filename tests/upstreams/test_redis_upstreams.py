"""Redis through a whole cluster, against a real server."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reqpool
from reqpool.kinds.redis_commands import BLOCKING, PINNED_ONLY, READ_ONLY, REFUSED
from reqpool_contract.errors import RedisError
from support.certificates import Certificates, Pair, make
from support.cluster import Cluster, cluster
from support.redis_server import RedisServer
from support.wait import wait_until

WORKERS = 2
MAX_ANSWER_BYTES = 16 << 20


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(workers=WORKERS) as started:
        yield started


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """A server of the test's own: no other one's connections count in it.

    ``redis_server`` is asked for because it knows what to do where none is installed.
    """
    with RedisServer() as server:
        yield server


# --- values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("text", b"text"),
        ("größe", "größe".encode()),
        (b"", b""),
        (bytes(range(256)), bytes(range(256))),
        (b"\r\n$5\r\n", b"\r\n$5\r\n"),
        (-12, b"-12"),
        (0.1, b"0.1"),
    ],
)
def test_a_value_comes_back_as_it_was_set(
    pool: reqpool.Pool, redis: RedisServer, value: Any, stored: bytes
) -> None:
    assert pool.redis(redis.url, "SET", "k", value).result() == b"OK"
    assert redis.command("GET", "k") == stored
    assert pool.redis(redis.url, "GET", "k").result() == stored


def test_replies_of_resp2_are_python_values(pool: reqpool.Pool, redis: RedisServer) -> None:
    def ask(*command: Any) -> Any:
        return pool.redis(redis.url, *command).result()

    assert ask("GET", "none") is None
    assert ask("INCR", "n") == 1
    assert ask("RPUSH", "l", "a", "b") == 2
    assert ask("LRANGE", "l", 0, -1) == [b"a", b"b"]
    assert ask("LRANGE", "none", 0, -1) == []
    assert ask("HSET", "h", "f", "v") == 1
    assert ask("HGETALL", "h") == [b"f", b"v"]
    assert ask("EVAL", "return {1, {'a', {false, {ok='fine'}}}, 3}", 0) == [1, [b"a", [None, b"fine"]], 3]
    mixed = ask("EVAL", "return {1, {err='MINE wrong'}}", 0)
    assert (mixed[0], mixed[1].reply_code) == (1, "MINE")


def test_replies_of_resp3_are_python_values(pool: reqpool.Pool, redis: RedisServer) -> None:
    def ask(*command: Any) -> Any:
        return pool.redis(redis.url, *command, protocol=3).result()

    ask("HSET", "h", "f", "v")
    ask("SADD", "s", "a", "b")
    ask("ZADD", "z", 1.5, "a")
    assert ask("GET", "none") is None
    assert ask("HGETALL", "h") == {b"f": b"v"}
    assert ask("SMEMBERS", "s") == {b"a", b"b"}
    assert ask("ZSCORE", "z", "a") == 1.5
    assert ask("ZRANGE", "z", 0, -1, "WITHSCORES") == [[b"a", 1.5]]
    assert ask("DEBUG", "PROTOCOL", "true") is True
    assert ask("DEBUG", "PROTOCOL", "double") == pytest.approx(math.pi, 1e-3)
    assert ask("DEBUG", "PROTOCOL", "bignum") == 1234567999999999999999999999999999999
    assert ask("DEBUG", "PROTOCOL", "verbatim") == b"This is a verbatim\nstring"
    assert ask("DEBUG", "PROTOCOL", "map") == {0: False, 1: True, 2: False}
    assert ask("DEBUG", "PROTOCOL", "attrib").startswith(b"Some real reply")
    assert ask("MEMORY", "STATS")[b"peak.allocated"] > 0
    (client,) = redis.clients()
    assert client["resp"] == "3"


def test_values_go_up_to_the_limit(pool: reqpool.Pool, redis: RedisServer) -> None:
    value = bytes(range(256)) * (48 << 10)
    assert len(value) == 12 << 20
    assert pool.redis(redis.url, "SET", "k", value, timeout=20).result() == b"OK"
    assert pool.redis(redis.url, "GET", "k", timeout=20).result() == value


def test_a_value_over_the_limit_is_a_bad_response_and_the_next_value_is_right(
    pool: reqpool.Pool, redis: RedisServer
) -> None:
    redis.command("SETRANGE", "big", MAX_ANSWER_BYTES + 100, "x")
    redis.command("SET", "small", "v")
    with pytest.raises(reqpool.BadResponse, match=f"larger than {MAX_ANSWER_BYTES} bytes"):
        pool.redis(redis.url, "GET", "big", timeout=20).result()
    assert pool.redis(redis.url, "GET", "small").result() == b"v"


def test_a_command_over_the_limit_is_refused_at_the_call(pool: reqpool.Pool, redis: RedisServer) -> None:
    with pytest.raises(reqpool.UsageError, match="bytes; at most 16777216 are allowed"):
        pool.redis(redis.url, "SET", "k", bytes(MAX_ANSWER_BYTES))


# --- errors of Redis ---------------------------------------------------------------------------------


def test_an_error_reply_has_its_code_and_its_whole_text(pool: reqpool.Pool, redis: RedisServer) -> None:
    redis.command("LPUSH", "l", "a")
    with pytest.raises(RedisError) as caught:
        pool.redis(redis.url, "GET", "l").result()
    assert caught.value.reply_code == "WRONGTYPE"
    assert caught.value.text == "WRONGTYPE Operation against a key holding the wrong kind of value"
    assert caught.value.origin == f"{redis.url}/0"
    with pytest.raises(RedisError, match=r"unknown command 'NO\.SUCH'") as caught:
        pool.redis(redis.url, "NO.SUCH").result()
    assert caught.value.reply_code == "ERR"
    assert len(redis.clients()) == 1, "an error is an answer: the connection stays"


def test_a_replica_is_read_only(pool: reqpool.Pool, redis_server: RedisServer) -> None:
    with RedisServer() as replica:
        replica.command("REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(RedisError) as caught:
            pool.redis(replica.url, "SET", "k", "v").result()
        assert caught.value.reply_code == "READONLY"


def test_a_server_that_loads_says_so(pool: reqpool.Pool, redis_server: RedisServer) -> None:
    # It looks after its clients only now and then while it loads: the more keys, the more often.
    with RedisServer("loading-process-events-interval-bytes 1024") as redis:
        redis.command("DEBUG", "POPULATE", 2_000, "k", 100)
        pool.redis(redis.url, "PING").result()
        redis.command("CONFIG", "SET", "key-load-delay", 2_000)
        with redis.connect() as loader:
            loader.sendall(b"DEBUG RELOAD\r\n")
            wait_until(lambda: said(pool, redis) == "LOADING", 10, "LOADING")
            redis.command("CONFIG", "SET", "key-load-delay", 0)
            wait_until(lambda: said(pool, redis) == "", 10, "the end of it")


def said(pool: reqpool.Pool, redis: RedisServer) -> str:
    try:
        pool.redis(redis.url, "GET", "k:1").result()
    except RedisError as error:
        return error.reply_code
    return ""


def test_a_cluster_says_where_a_key_is(pool: reqpool.Pool, redis_server: RedisServer) -> None:
    with RedisServer("cluster-enabled yes") as one, RedisServer("cluster-enabled yes") as other:
        host, _, port = other.address.partition(":")
        one.command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        other.command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        one.command("CLUSTER", "MEET", host, int(port))
        wait_until(lambda: b"cluster_state:ok" in one.command("CLUSTER", "INFO"), 20, "a cluster")
        with pytest.raises(RedisError, match=f"MOVED 12182 {other.address}") as caught:
            pool.redis(one.url, "GET", "foo").result()
        assert caught.value.reply_code == "MOVED"
        with pytest.raises(RedisError) as caught:
            pool.redis_multi(one.url, [("SET", "foo", 1)]).result()
        assert caught.value.reply_code == "MOVED"


# --- who and where -----------------------------------------------------------------------------------


def test_a_socket_and_a_port_lead_to_the_same(pool: reqpool.Pool, redis: RedisServer) -> None:
    pool.redis(f"unix://{redis.socket}?db=3", "SET", "k", "v").result()
    assert pool.redis(f"{redis.url}/3", "GET", "k").result() == b"v"
    assert pool.redis(redis.url, "GET", "k").result() is None
    assert sorted(client["db"] for client in redis.clients()) == ["0", "3", "3"]


def test_a_missing_socket_is_connect_failed(pool: reqpool.Pool, tmp_path: Path) -> None:
    with pytest.raises(reqpool.ConnectFailed, match="No such file"):
        pool.redis(f"unix://{tmp_path}/none.sock", "PING").result()


def test_an_unknown_database_is_connect_failed(pool: reqpool.Pool, redis: RedisServer) -> None:
    with pytest.raises(reqpool.ConnectFailed, match=r"SELECT 99: ERR DB index is out of range") as caught:
        pool.redis(f"{redis.url}/99", "INCR", "k").result()
    assert caught.value.sent is False


@pytest.fixture
def guarded(redis_server: RedisServer) -> Iterator[RedisServer]:
    """A server with users."""
    with RedisServer(
        "requirepass top",
        "user alice on >alices ~* &* +@all",
        "user bob on >bobs ~* &* +@all",
        "user twice on >first >second ~* &* +@all",
        "user reader on >readers ~* &* +get",
        "user open on nopass ~* &* +@all",
        password="top",
    ) as server:
        yield server


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    ("user", "name"), [(":top", "default"), ("alice:alices", "alice"), ("bob:bobs", "bob"), ("open", "open")]
)
def test_a_user_is_who_the_url_says(
    pool: reqpool.Pool, guarded: RedisServer, user: str, name: str, protocol: int
) -> None:
    for url in (f"redis://{user}@{guarded.address}/1", f"unix://{user}@{guarded.socket}?db=1"):
        assert pool.redis(url, "ACL", "WHOAMI", protocol=protocol).result() == name.encode()
        with pool.redis_session(url, protocol=protocol) as session:
            assert session.command("ACL", "WHOAMI").result() == name.encode()


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ("alice:wrong", "AUTH: WRONGPASS"),
        ("nobody:x", "AUTH: WRONGPASS"),
        (":wrong", "AUTH: WRONGPASS"),
        ("", "NOAUTH "),
    ],
)
def test_a_refused_log_in_is_connect_failed_and_says_why(
    pool: reqpool.Pool, guarded: RedisServer, user: str, says: str
) -> None:
    url = f"redis://{user}@{guarded.address}" if user else guarded.url
    with pytest.raises(reqpool.ConnectFailed, match=says) as caught:
        pool.redis(url, "GET", "k").result()
    assert "wrong" not in str(caught.value)
    with pytest.raises(reqpool.ConnectFailed, match=says.replace("AUTH:", "HELLO:")):
        pool.redis(url, "GET", "k", protocol=3).result()


def test_a_wrong_password_never_gets_the_connection_of_the_right_one(
    pool: reqpool.Pool, guarded: RedisServer
) -> None:
    assert pool.redis(f"redis://alice:alices@{guarded.address}", "PING").result() == b"PONG"
    for _ in range(3):
        with pytest.raises(reqpool.ConnectFailed, match="WRONGPASS"):
            pool.redis(f"redis://alice:wrong@{guarded.address}", "PING").result()
    assert pool.redis(f"redis://alice:alices@{guarded.address}", "PING").result() == b"PONG"


def test_other_users_and_other_passwords_never_share_a_connection(
    pool: reqpool.Pool, guarded: RedisServer
) -> None:
    users = ("alice:alices", "bob:bobs", "twice:first", "twice:second")
    for _ in range(20):
        futures = [pool.redis(f"redis://{user}@{guarded.address}", "CLIENT", "ID") for user in users]
        for future in futures:
            future.result()
    seen = sorted(client["user"] for client in guarded.clients())
    assert seen == ["alice", "bob", "twice", "twice"]
    ids = {pool.redis(f"redis://{user}@{guarded.address}", "CLIENT", "ID").result() for user in users}
    assert len(ids) == 4


def test_what_a_user_may_not_do_is_noperm(pool: reqpool.Pool, guarded: RedisServer) -> None:
    url = f"redis://reader:readers@{guarded.address}"  # who may not even give the connection a name
    assert pool.redis(url, "GET", "k").result() is None
    with pytest.raises(RedisError) as caught:
        pool.redis(url, "SET", "k", "v").result()
    assert caught.value.reply_code == "NOPERM"
    with pytest.raises(reqpool.ConnectFailed, match="SELECT 1: NOPERM"):
        pool.redis(f"{url}/1", "GET", "k").result()


# --- TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certificates"))


def test_rediss_is_redis_over_tls(
    pool: reqpool.Pool, redis_server: RedisServer, certificates: Certificates
) -> None:
    with RedisServer("requirepass top", password="top", tls=certificates.server) as redis:
        url = f"rediss://:top@{redis.tls_address}/2"
        tls = reqpool.Tls(ca=str(certificates.ca))
        value = bytes(range(256)) * 8_000
        assert pool.redis(url, "SET", "k", value, tls=tls).result() == b"OK"
        assert pool.redis(url, "GET", "k", tls=tls).result() == value
        assert pool.redis_multi(url, [("STRLEN", "k"), ("DEL", "k")], tls=tls).result() == [len(value), 1]
        assert pool.redis(url, "BLPOP", "q", 0.01, tls=tls).result() is None
        with pool.redis_session(url, tls=tls) as session:
            assert session.command("WATCH", "k").result() == b"OK"
        with pytest.raises(reqpool.ConnectFailed, match="WRONGPASS"):
            pool.redis(f"rediss://:wrong@{redis.tls_address}", "PING", tls=tls).result()


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("expired", "expired"),
        ("wrong_name", "not for 127.0.0.1 but for"),
        ("stranger", "authority|issuer"),
    ],
)
def test_a_bad_certificate_is_connect_failed_and_says_which(
    pool: reqpool.Pool, redis_server: RedisServer, certificates: Certificates, which: str, says: str
) -> None:
    pair: Pair = getattr(certificates, which)
    with RedisServer(tls=pair) as redis:
        with pytest.raises(reqpool.ConnectFailed, match=says):
            pool.redis(
                f"rediss://{redis.tls_address}", "PING", tls=reqpool.Tls(ca=str(certificates.ca))
            ).result()
        tls = reqpool.Tls(verify=False)
        assert pool.redis(f"rediss://{redis.tls_address}", "PING", tls=tls).result() == b"PONG"


def test_tls_towards_a_plain_port_never_connects(pool: reqpool.Pool, redis: RedisServer) -> None:
    # Redis waits for the end of the line it takes the greeting for.
    with pytest.raises((reqpool.ConnectFailed, reqpool.RequestTimeout)) as caught:
        pool.redis(f"rediss://{redis.address}", "PING", timeout=0.5).result()
    assert (caught.value.phase, caught.value.sent) == ("connect", False)


# --- shared connections ------------------------------------------------------------------------------


def test_many_synchronous_producers_share_few_connections(running: Cluster, redis: RedisServer) -> None:
    producers, rounds = 32, 50
    failures: list[BaseException] = []

    def produce(number: int) -> None:
        try:
            for at in range(rounds):
                key, value = f"k{number}", f"{number}.{at}"
                own.redis(redis.url, "SET", key, value).result()
                assert own.redis(redis.url, "GET", key).result() == value.encode()
        except BaseException as error:
            failures.append(error)

    with reqpool.Pool(running.url) as own:
        threads = [threading.Thread(target=produce, args=(number,)) for number in range(producers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failures
    assert len(redis.clients()) <= 2 * WORKERS


def test_what_changes_a_shared_connection_never_gets_there(pool: reqpool.Pool, redis: RedisServer) -> None:
    for name in (*REFUSED, *PINNED_ONLY):
        with pytest.raises(reqpool.UsageError, match=f"{name} is refused"):
            pool.redis(redis.url, *name.split(), "1")
    assert redis.clients() == []


def test_a_timed_out_commands_reply_goes_to_nobody(pool: reqpool.Pool, redis: RedisServer) -> None:
    for number in range(20):
        redis.command("SET", f"k{number}", f"v{number}")
    for _ in range(3):
        pool.redis(redis.url, "PING").result()
        before = {client["id"] for client in redis.clients()}
        with redis.connect() as sleeper:
            sleeper.sendall(b"DEBUG SLEEP 0.4\r\n")
            late = [pool.redis(redis.url, "GET", "k0", timeout=0.1) for _ in range(5)]
            errors = [future.exception() for future in late]
            assert all(isinstance(error, reqpool.RequestTimeout) for error in errors)
            futures = [(number, pool.redis(redis.url, "GET", f"k{number}")) for number in range(1, 20)]
            for number, future in futures:
                assert future.result() == b"v%d" % number
        # Where the machine was too busy to send them in time, there is nothing to be closed. Another
        # connection may have been there, and idle: that one goes on.
        if any(isinstance(error, reqpool.RequestTimeout) and error.phase == "read" for error in errors):
            wait_until(lambda before=before: before - {c["id"] for c in redis.clients()}, 5, "theirs closed")


def test_a_cancelled_commands_reply_goes_to_nobody(pool: reqpool.Pool, redis: RedisServer) -> None:
    redis.command("SET", "a", "of a")
    redis.command("SET", "b", "of b")
    pool.redis(redis.url, "PING").result()
    with redis.connect() as sleeper:
        sleeper.sendall(b"DEBUG SLEEP 0.3\r\n")
        cancelled = [pool.redis(redis.url, "GET", "a") for _ in range(20)]
        kept = pool.redis(redis.url, "GET", "b")
        assert all(future.cancel() for future in cancelled)
        assert kept.result() == b"of b"
    assert [pool.redis(redis.url, "GET", "b").result() for _ in range(20)] == [b"of b"] * 20


def test_an_idle_connection_that_was_closed_is_not_noticed(pool: reqpool.Pool, redis: RedisServer) -> None:
    redis.command("SET", "k", "v")
    for _ in range(20):
        assert pool.redis(redis.url, "GET", "k").result() == b"v"
        redis.close_clients(redis.clients())


# --- MULTI/EXEC --------------------------------------------------------------------------------------


def test_a_transaction_stays_together_among_everybodys_commands(
    pool: reqpool.Pool, redis: RedisServer
) -> None:
    futures = []
    for _ in range(200):
        pool.redis(redis.url, "INCR", "n")
        futures.append(pool.redis_multi(redis.url, [("INCR", "n")] * 3 + [("GET", "n")]))
    for future in futures:
        first, second, third, last = future.result()
        assert (second, third, last) == (first + 1, first + 2, b"%d" % (first + 2))


def test_an_error_in_a_transaction_stands_in_its_place(pool: reqpool.Pool, redis: RedisServer) -> None:
    replies = pool.redis_multi(redis.url, [("SET", "k", "v"), ("INCR", "k"), ("GET", "k")]).result()
    assert (replies[0], replies[2]) == (b"OK", b"v")
    assert isinstance(replies[1], RedisError)
    assert replies[1].text == "ERR value is not an integer or out of range"


def test_a_command_that_is_not_queued_undoes_the_transaction(pool: reqpool.Pool, redis: RedisServer) -> None:
    with pytest.raises(RedisError, match=r"command 2 of the transaction, NO\.SUCH, was refused: ERR unknown"):
        pool.redis_multi(redis.url, [("SET", "k", "v"), ("NO.SUCH",), ("GET", "k")]).result()
    after = [pool.redis(redis.url, "GET", "k").result(), pool.redis(redis.url, "ECHO", "x").result()]
    assert after == [None, b"x"]


# --- sessions ----------------------------------------------------------------------------------------


def test_a_watched_key_that_changed_undoes_the_transaction(pool: reqpool.Pool, redis: RedisServer) -> None:
    with pool.redis_session(redis.url) as session:
        for changes, outcome in ((False, [1]), (True, None), (False, [2])):
            assert session.command("WATCH", "k").result() == b"OK"
            if changes:
                pool.redis(redis.url, "SET", "k", 1).result()
            assert session.command("MULTI").result() == b"OK"
            assert session.command("INCR", "k").result() == b"QUEUED"
            assert session.command("EXEC").result() == outcome


@pytest.mark.parametrize(
    "commands",
    [
        [("SELECT", 5)],
        [("WATCH", "k"), ("SELECT", 5)],
        [("MULTI",), ("SET", "k", "v")],
        [("CLIENT", "SETNAME", "mine")],
        [("ASKING",)],
    ],
    ids=lambda commands: " ".join(map(str, commands[0])),
)
def test_what_a_session_left_is_undone_before_the_next_one(
    pool: reqpool.Pool, guarded: RedisServer, commands: list[tuple[Any, ...]]
) -> None:
    url = f"redis://alice:alices@{guarded.address}/2"
    with pool.redis_session(url) as session:
        identity = session.command("CLIENT", "ID").result()
        for command in commands:
            with contextlib.suppress(RedisError):  # ASKING is for clusters
                session.command(*command).result()
    wait_until(
        lambda: [c["cmd"] for c in guarded.clients()] == ["select"], 5, "the session's connection reset"
    )
    with pool.redis_session(url) as session:
        assert session.command("CLIENT", "ID").result() == identity, "and kept"
        assert session.command("GET", "k").result() is None
        info = session.command("CLIENT", "INFO").result().decode()
    assert " db=2 " in info
    assert " user=alice " in info
    assert " name=reqpool " in info
    assert " multi=-1 " in info
    assert " flags=N " in info


def test_a_session_abandoned_in_the_middle_closes_its_connection(
    pool: reqpool.Pool, redis: RedisServer
) -> None:
    session = pool.redis_session(redis.url)
    identity = session.command("CLIENT", "ID").result()
    waiting = session.command("BLPOP", "q", 0)
    wait_until(lambda: any(client["cmd"] == "blpop" for client in redis.clients()), 5, "it waits")
    session.close()
    with pytest.raises(reqpool.Cancelled):
        waiting.result()
    wait_until(lambda: all(int(client["id"]) != identity for client in redis.clients()), 5, "closed")


# --- commands that wait ------------------------------------------------------------------------------


def test_a_command_that_waits_stalls_nobody(pool: reqpool.Pool, redis: RedisServer) -> None:
    waiting = [pool.redis(redis.url, "BLPOP", f"q{number}", 0, timeout=20) for number in range(8)]
    stream = pool.redis(redis.url, "XREAD", "BLOCK", 0, "STREAMS", "s", "$", timeout=20)
    wait_until(lambda: sum("b" in c["flags"] for c in redis.clients()) == 9, 10, "nine wait")
    for _ in range(100):
        assert pool.redis(redis.url, "INCR", "n").result() > 0
    assert not any(future.done() for future in (*waiting, stream))
    for number, future in enumerate(waiting):
        pool.redis(redis.url, "LPUSH", f"q{number}", "v").result()
        assert future.result() == [b"q%d" % number, b"v"]
    pool.redis(redis.url, "XADD", "s", "1-1", "f", "v").result()
    assert stream.result() == [[b"s", [[b"1-1", [b"f", b"v"]]]]]


def test_scripts_do_not_stand_behind_what_waits(pool: reqpool.Pool, redis: RedisServer) -> None:
    waiting = [pool.redis(redis.url, "BLPOP", "q", 0, timeout=20) for _ in range(70)]
    wait_until(lambda: sum("b" in c["flags"] for c in redis.clients()) == 56, 10, "as many wait as may")
    assert pool.redis(redis.url, "EVAL", "return ARGV[1]", 0, "x").result() == b"x"
    assert pool.redis_multi(redis.url, [("EVAL", "return 1", 0), ("INCR", "n")]).result() == [1, 1]
    for future in waiting:
        future.cancel()


@pytest.mark.parametrize(
    "script", ["return redis.error_reply(ARGV[1])", "return {redis.error_reply(ARGV[1])}"]
)
def test_a_script_that_fails_says_why_and_others_go_on(
    pool: reqpool.Pool, redis: RedisServer, script: str
) -> None:
    futures = [pool.redis(redis.url, "EVAL", script, 0, f"NO {number}") for number in range(50)]
    others = [pool.redis(redis.url, "INCR", "n") for _ in range(50)]
    said = []
    for future in futures:
        try:
            (error,) = future.result()
        except RedisError as raised:
            error = raised
        said.append(error.text)
    assert said == [f"NO {number}" for number in range(50)]
    assert sorted(future.result() for future in others) == list(range(1, 51))


def test_its_own_timeout_is_an_answer(pool: reqpool.Pool, redis: RedisServer) -> None:
    assert pool.redis(redis.url, "BLPOP", "q", 0.05).result() is None


def test_who_waits_for_replicas_waits_for_its_own_writes(pool: reqpool.Pool, redis: RedisServer) -> None:
    with pytest.raises(reqpool.UsageError, match="WAIT is refused on a shared connection"):
        pool.redis(redis.url, "WAIT", 1, 50)
    with pool.redis_session(redis.url) as session:
        session.command("SET", "k", "v").result()
        assert session.command("WAIT", 1, 50).result() == 0


@pytest.mark.parametrize("how", ["times out", "is cancelled"])
def test_a_wait_that_was_given_up_takes_nothing(pool: reqpool.Pool, redis: RedisServer, how: str) -> None:
    waiting = pool.redis(redis.url, "BLPOP", "q", 0, timeout=1.0 if how == "times out" else 20)
    wait_until(lambda: any(client["cmd"] == "blpop" for client in redis.clients()), 5, "it waits")
    if how == "is cancelled":
        waiting.cancel()
    with pytest.raises((reqpool.RequestTimeout, reqpool.Cancelled)):
        waiting.result()
    wait_until(lambda: not any("b" in client["flags"] for client in redis.clients()), 5, "closed")
    pool.redis(redis.url, "LPUSH", "q", "v").result()
    assert pool.redis(redis.url, "LLEN", "q").result() == 1


# --- the tables --------------------------------------------------------------------------------------


def test_the_tables_are_the_servers(redis_server: RedisServer) -> None:
    flagged: dict[str, set[str]] = {"readonly": set(), "blocking": set()}

    def look(about: list[Any]) -> None:
        name = about[0].decode().upper().replace("|", " ")
        for flag, names in flagged.items():
            if flag in {str(word, "ascii") if isinstance(word, bytes) else str(word) for word in about[2]}:
                names.add(name)
        for inner in about[9] if len(about) > 9 else ():
            look(inner)

    for about in redis_server.command("COMMAND"):
        look(about)
    version = redis_server.command("INFO", "server").decode().partition("redis_version:")[2].split()[0]
    missing = flagged["readonly"] - READ_ONLY
    if version.startswith("7.0."):
        assert flagged["readonly"] == READ_ONLY
    else:  # a later server has further ones, which are not idempotent by default
        assert not READ_ONLY - flagged["readonly"], missing
    # XREAD and XREADGROUP wait only where they say BLOCK, WAIT and WAITAOF in sessions.
    assert flagged["blocking"] - {"XREAD", "XREADGROUP", "WAIT", "WAITAOF"} <= BLOCKING
