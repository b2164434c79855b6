"""A file of authorities as large as Debian's, through a whole cluster, beside requests that have none."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import reqpool
from reqpool_contract import wire
from support.certificates import bundle
from support.cluster import Cluster, cluster
from support.dns_peer import UdpPeer, echo
from support.nginx import NginxServer

DEBIAN_BYTES = 219_597
"""Size of ca-certificates.crt in Debian's package ca-certificates 20230311."""
COUNT = 200


@pytest.fixture(scope="module")
def ca(nginx: NginxServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    return bundle(path, DEBIAN_BYTES, nginx.certificates.ca.read_text())


@pytest.fixture(scope="module")
def running(nginx: NginxServer, ca: Path) -> Iterator[Cluster]:
    table = f'[upstreams.site]\nurl = "{nginx.https_url()}"\ntls.ca = "{ca}"\nmax_connections = 8\n'
    with cluster(workers=1, config=table) as started:
        yield started


@pytest.mark.parametrize("by", ["name", "URL"])
def test_large_authorities_work_and_plain_requests_beside_them_too(
    pool: reqpool.Pool, nginx: NginxServer, ca: Path, by: str
) -> None:
    with UdpPeer(echo) as peer:
        futures: list[reqpool.Future] = []
        for _ in range(COUNT):
            futures.append(pool.udp(peer.address, b"plain"))
            if by == "name":
                futures.append(pool.http("GET", "site/small", timeout=20))
            else:
                futures.append(
                    pool.http("GET", f"{nginx.https_url()}/small", tls=reqpool.Tls(ca=ca), timeout=20)
                )
        answers = [future.result(30) for future in futures]
    assert answers[::2] == [b"plain"] * COUNT
    assert {answer.status for answer in answers[1::2]} == {200}


def test_authorities_that_are_too_large_are_refused_at_the_call(
    pool: reqpool.Pool, nginx: NginxServer, tmp_path: Path
) -> None:
    large = bundle(tmp_path / "large.pem", wire.MAX_SETTINGS_BYTES + 1)
    with UdpPeer(echo) as peer:
        before = [pool.udp(peer.address, b"plain") for _ in range(10)]
        with pytest.raises(reqpool.UsageError, match=r"large\.pem' has 1048577 bytes; at most 1048576"):
            pool.http("GET", f"{nginx.https_url()}/small", tls=reqpool.Tls(ca=large))
        after = [pool.udp(peer.address, b"plain") for _ in range(10)]
        assert [future.result(10) for future in before + after] == [b"plain"] * 20


def test_large_settings_survive_a_new_worker_and_a_new_broker(
    running: Cluster, nginx: NginxServer, ca: Path
) -> None:
    with reqpool.Pool(running.url, timeout=20) as pool:
        url, tls = f"{nginx.https_url()}/small", reqpool.Tls(ca=ca)
        assert pool.http("GET", url, tls=tls).result(30).status == 200
        os.kill(running.worker_pids[0], signal.SIGKILL)
        assert pool.http("GET", url, tls=tls).result(30).status == 200
        os.kill(running.broker_pid, signal.SIGKILL)
        assert pool.http("GET", url, tls=tls).result(30).status == 200
        assert pool.http("GET", "site/small").result(30).status == 200
