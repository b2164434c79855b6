"""The example of docs/kinds.md as a third party's package: built, installed, against a real memcached."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from reqpool_memcached import Item, MemcachedError, memcached

import reqpool
from support.cluster import Cluster, cluster
from support.memcached import MemcachedServer, install_example
from support.tcp_peer import Connection, Script, TcpPeer, answers, closes_at_once, never_answers, resets_after

LIMIT = 8


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for which, as for this process, the package is installed."""
    installed = str(install_example(tmp_path_factory.mktemp("example")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", installed)
        patch.syspath_prepend(installed)
        with cluster(workers=2) as started, started.no_fds_left():
            yield started


@pytest.fixture
def server(memcached: MemcachedServer) -> MemcachedServer:
    memcached.exchange(b"flush_all\r\n", b"OK\r\n")
    return memcached


def test_submit_is_all_it_takes(pool: reqpool.Pool, server: MemcachedServer) -> None:
    assert pool.submit("memcached", server.address, ("get", "k")).result(5) is None
    assert pool.submit("memcached", server.address, ("set", "k", "value")).result(5) is True
    assert pool.submit("memcached", server.address, ("get", "k")).result(5) == b"value"


def test_every_command_does_what_the_server_does(pool: reqpool.Pool, server: MemcachedServer) -> None:
    def done(command: str, *arguments: object, **options: object) -> object:
        return memcached(pool, server.address, command, *arguments, **options).result(5)

    assert done("add", "k", b"1", flags=7, expire=100) is True
    assert done("add", "k", b"2") is False
    assert done("replace", "k", b"2", flags=7) is True
    assert done("replace", "none", b"2") is False
    item = done("gets", "k")
    assert isinstance(item, Item)
    assert item[:2] == (b"2", 7)
    assert done("cas", "k", b"3", item.token) is True
    assert done("cas", "k", b"4", item.token) is False
    assert done("cas", "none", b"4", item.token) is False
    assert done("append", "k", b"5") is True
    assert done("prepend", "k", b"2") is True
    assert done("get", "k") == b"235"
    assert done("incr", "k", 765) == 1000
    assert done("decr", "k") == 999
    assert done("get", "k") in (b"999", b"999 ")
    assert done("incr", "none") is None
    assert done("touch", "k", 100) is True
    assert done("touch", "none", 100) is False
    assert done("get_many", "k", "none", "schlüssel") == {"k": done("get", "k")}
    assert done("delete", "k") is True
    assert done("delete", "k") is False


@pytest.mark.parametrize("value", [b"", b"\r\nEND\r\n", bytes(range(256)), os.urandom(1_000_000)])
def test_any_value_comes_back_as_it_was(pool: reqpool.Pool, server: MemcachedServer, value: bytes) -> None:
    assert memcached(pool, server.address, "set", "k", value).result(5)
    assert memcached(pool, server.address, "get", "k").result(5) == value


def test_a_long_list_of_keys_is_one_request(pool: reqpool.Pool, server: MemcachedServer) -> None:
    keys = [f"{number:05d}" + "x" * 200 for number in range(2_000)]
    stored = [memcached(pool, server.address, "set", key, key[:5]) for key in keys[::2]]
    assert all(future.result(10) for future in stored)
    found = memcached(pool, server.address, "get_many", *keys).result(10)
    assert found == {key: key[:5].encode() for key in keys[::2]}


def test_the_servers_error_is_raised_and_harms_nobody_else(
    pool: reqpool.Pool, server: MemcachedServer
) -> None:
    assert memcached(pool, server.address, "set", "k", b"text").result(5)
    before = [memcached(pool, server.address, "get", "k") for _ in range(50)]
    counted = memcached(pool, server.address, "incr", "k")
    large = memcached(pool, server.address, "set", "large", bytes(2 << 20))
    after = [memcached(pool, server.address, "get", "k") for _ in range(50)]
    with pytest.raises(MemcachedError, match="CLIENT_ERROR cannot increment") as caught:
        counted.result(5)
    assert caught.value.origin == f"memcached://{server.address}"
    with pytest.raises(MemcachedError, match="SERVER_ERROR object too large"):
        large.result(5)
    assert [future.result(5) for future in before + after] == [b"text"] * 100


def test_all_clients_share_few_connections_and_get_their_own_answers(
    running: Cluster, pool: reqpool.Pool, server: MemcachedServer
) -> None:
    for number in range(100):
        assert memcached(pool, server.address, "set", f"k{number}", str(number)).result(5)
    with reqpool.Pool(running.url, timeout=10.0) as other:
        futures = [
            (number % 100, memcached(producer, server.address, "get", f"k{number % 100}"))
            for number in range(5_000)
            for producer in (pool, other)
        ]
        most = server.connections()
        assert all(future.result(10) == str(number).encode() for number, future in futures)
    assert 0 < max(most, server.connections()) <= LIMIT


def test_it_can_stand_in_the_configuration_by_name(
    running: Cluster, server: MemcachedServer, tmp_path: Path
) -> None:
    config = tmp_path / "reqpool.toml"
    config.write_text(f'[upstreams.sessions]\nurl = "memcached://{server.address}"\nmax_connections = 1\n')
    config.chmod(0o600)
    with (
        cluster(workers=2, arguments=("--config", str(config))) as named,
        reqpool.Pool(named.url, timeout=10.0) as pool,
    ):
        assert memcached(pool, "sessions", "set", "k", b"by name").result(10)
        before = server.connections()
        futures = [memcached(pool, target, "get", "k") for target in ("sessions", server.address) * 500]
        assert [future.result(10) for future in futures] == [b"by name"] * 1000
        assert server.connections() <= before
        assert named.report()["origins"][f"memcached://{server.address}"]["limit"] == 1
        with pytest.raises(reqpool.UsageError, match="its upstreams of kind 'memcached': sessions"):
            memcached(pool, "session", "get", "k").result(10)


def after(request_ends: bytes, *pieces: bytes) -> Script:
    """Wait for one request, send the pieces each in a packet of its own, and stay."""

    def script(connection: Connection) -> None:
        connection.read_until(request_ends)
        for piece in pieces:
            connection.send(piece)
        connection.wait_for_end()

    return script


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (after(b"\r\n", b"220 mail.example ESMTP\r\n"), reqpool.BadResponse),
        (after(b"\r\n", b"VALUE k 0 3\r\n1\r\nEND\r\n..."), reqpool.BadResponse),
        (after(b"\r\n", b"VALUE k 0 4000000000\r\n"), reqpool.BadResponse),
        (after(b"\r\n", b"VALUE other 0 1\r\n1\r\nEND\r\n"), reqpool.BadResponse),
        (after(b"\r\n", b"x" * 10_000), reqpool.BadResponse),
        (answers(b"VALUE k 0 10\r\n12345"), reqpool.ConnectionLost),
        (resets_after(b"VALUE k 0 10\r\n12345"), reqpool.ConnectionLost),
        (closes_at_once, reqpool.ConnectionLost),
        (after(b"\r\n", b"VALUE k 0 10\r\n12345"), reqpool.RequestTimeout),
        (never_answers, reqpool.RequestTimeout),
    ],
    ids=["garbage", "lies about a length", "too long", "another key", "no end of line", "closes in mid value",
         "resets in mid value", "closes", "stops in mid value", "is silent"],
)  # fmt: skip
def test_a_bad_server_is_the_right_error(
    pool: reqpool.Pool, script: Script, error: type[reqpool.PoolError]
) -> None:
    with TcpPeer(script) as peer:
        with pytest.raises(error):
            memcached(pool, peer.address, "get", "k", timeout=1.0, idempotent=False).result(5)
        peer.wait_all_closed()


# --- installed, and not ----------------------------------------------------------------------------

SUBMITS = "import sys, reqpool; reqpool.Pool(sys.argv[1]).submit('memcached', '127.0.0.1:1', ('get', 'k'))"


def test_without_the_package_the_error_names_the_installed_kinds(running: Cluster) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    app = subprocess.run(
        [sys.executable, "-c", SUBMITS, running.url],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment,
    )
    assert app.returncode == 1
    said = app.stderr.splitlines()[-1]
    assert said.startswith("reqpool.errors.UsageError: unknown kind 'memcached'; installed kinds: dns, ")


def test_a_cluster_without_the_package_says_which_kinds_it_has(running: Cluster) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH")
        with cluster(workers=1) as bare, reqpool.Pool(bare.url) as pool:
            future = memcached(pool, "127.0.0.1:1", "get", "k")
            with pytest.raises(reqpool.UsageError, match=r"no worker serves kind 'memcached'; served: dns, "):
                future.result(5)


ROOT = Path(__file__).parents[2]


def test_the_readmes_example_runs_as_printed(running: Cluster, server: MemcachedServer) -> None:
    readme = (ROOT / "docs/examples/reqpool-memcached/README.md").read_text()
    program = readme.partition("```python\n")[2].partition("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", program.replace("127.0.0.1:11211", server.address)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'value'\n", "")
