"""Redis upstreams that ``reqpool.toml`` names: who logs in where, and how much, is the pool's affair."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import reqpool
from support.cluster import cluster
from support.redis_server import RedisServer

MAX_CONNECTIONS = 3
MAX_BYTES = 1_000


@pytest.fixture(scope="module")
def server(redis_server: RedisServer) -> Iterator[RedisServer]:
    with RedisServer("requirepass top", "user alice on >alices ~* &* +@all", password="top") as started:
        yield started


@pytest.fixture(scope="module")
def pool(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[reqpool.Pool]:
    folder = tmp_path_factory.mktemp("named")
    secret = _secret(folder / "top", "top")
    alices = _secret(folder / "alices", "alices")
    config = folder / "reqpool.toml"
    config.write_text(
        f"""
        [upstreams.cache]
        url = "{server.url}/2"
        password_file = "{secret}"
        max_connections = {MAX_CONNECTIONS}
        max_response_bytes = {MAX_BYTES}

        [upstreams.local]
        url = "unix://alice@{server.socket}?db=5"
        password_file = "{alices}"
        """
    )
    with (
        cluster(workers=3, arguments=("--config", str(config))) as running,
        reqpool.Pool(running.url, timeout=10) as opened,
    ):
        yield opened


def _secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("name", "who"), [("cache", "user=default db=2"), ("local", "user=alice db=5")])
def test_a_name_is_enough(pool: reqpool.Pool, name: str, who: str) -> None:
    def facts(info: bytes) -> str:
        words = info.decode().split()
        return " ".join(word for start in ("user=", "db=") for word in words if word.startswith(start))

    assert facts(pool.redis(name, "CLIENT", "INFO").result()) == who
    assert facts(pool.redis(name, "CLIENT", "INFO", protocol=3).result()) == who
    assert facts(pool.submit("redis-exclusive", name, ("CLIENT", "INFO")).result()) == who
    with pool.redis_session(name) as session:
        assert facts(session.command("CLIENT", "INFO").result()) == who
    assert pool.redis(name, "BLPOP", "q", 0.01).result() is None
    assert pool.redis_multi(name, [("ECHO", "x")]).result() == [b"x"]


def test_its_url_gets_its_password(pool: reqpool.Pool, server: RedisServer) -> None:
    assert pool.redis(f"{server.url}/2", "PING").result() == b"PONG"
    with pytest.raises(reqpool.ConnectFailed, match="NOAUTH"):
        pool.redis(f"{server.url}/3", "PING").result()
    with pytest.raises(reqpool.ConnectFailed, match="WRONGPASS"):
        pool.redis(f"redis://:wrong@{server.address}/2", "PING").result()


def test_values_go_up_to_the_configured_limit(pool: reqpool.Pool) -> None:
    pool.redis("cache", "SET", "most", bytes(MAX_BYTES)).result()
    pool.redis("cache", "SET", "more", bytes(MAX_BYTES + 100)).result()
    assert pool.redis("cache", "GET", "most").result() == bytes(MAX_BYTES)
    with pytest.raises(reqpool.BadResponse, match="larger than 1000 bytes"):
        pool.redis("cache", "GET", "more").result()


def test_all_producers_together_have_the_one_limit(pool: reqpool.Pool, server: RedisServer) -> None:
    ends = threading.Barrier(33)
    failures: list[BaseException] = []

    def produce(number: int) -> None:
        try:
            for at in range(100):
                command = ("GET", "most") if at % 2 else ("INCR", f"n{number}")
                pool.redis("cache", *command).result()
        except BaseException as error:
            failures.append(error)
        finally:
            ends.wait(60)

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    most = 0
    while ends.n_waiting < 32:
        # Unix sockets are counted apart: another upstream.
        most = max(most, sum("/" not in client["addr"] for client in server.clients()))
    ends.wait(60)
    for thread in threads:
        thread.join()
    assert not failures
    assert most <= MAX_CONNECTIONS


def test_an_embedded_pool_knows_the_names_of_its_configuration(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    config = tmp_path / "reqpool.toml"
    config.write_text(f'[upstreams.cache]\nurl = "{redis_server.url}"\n')
    with reqpool.Pool(config=config, workers=1, timeout=20) as pool:
        assert pool.redis("cache", "PING").result() == b"PONG"
        with pytest.raises(reqpool.UsageError, match=r"has no upstream 'cash'; .*cache"):
            pool.redis("cash", "PING").result()


def test_a_configuration_belongs_to_a_private_cluster_and_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(reqpool.UsageError, match=r"config= is for a pool without a URL"):
        reqpool.Pool("ipc:///tmp/x", config="reqpool.toml")
    with pytest.raises(reqpool.UsageError, match="there is no such file"):
        reqpool.Pool(config=tmp_path / "reqpool.toml")
    with pytest.raises(reqpool.UsageError, match="config= must be a path, not int"):
        reqpool.Pool(config=7)  # type: ignore[arg-type]
