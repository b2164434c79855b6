"""The commands against a real cluster: ``dns``, ``udp``, ``tcp``, ``status``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.dns_peer import UdpPeer, closed_port, echo, silent
from support.knot import KnotServer
from support.tcp_peer import TcpPeer, answers, echo_until
from support.wait import wait_until


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(workers=1) as started:
        yield started


def reqpool_command(running: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reqpool_ops", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"REQPOOL_URL": running.url},
    )


def test_udp_prints_the_answer_as_it_came(running: Cluster) -> None:
    with UdpPeer(echo) as peer:
        done = reqpool_command(running, "udp", peer.address, r"hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


@pytest.mark.parametrize("end", [("--until", r"\n"), ("--length", "6")])
def test_tcp_reads_to_the_end_it_is_told(running: Cluster, end: tuple[str, str]) -> None:
    with TcpPeer(echo_until(b"\n")) as peer:
        done = reqpool_command(running, "tcp", peer.address, r"hello\nmore", *end)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


def test_tcp_reads_until_close_if_told_nothing(running: Cluster) -> None:
    with TcpPeer(answers(b"all there is")) as peer:
        done = reqpool_command(running, "tcp", peer.address, r"?\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "all there is", "")


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_an_upstream_that_is_not_there_is_one_line_and_1(running: Cluster, kind: str) -> None:
    address = closed_port()
    done = reqpool_command(running, kind, address, "hello", "--timeout", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("reqpool: ")
    assert done.stderr.count("\n") == 1
    assert address in done.stderr


def test_a_silent_upstream_is_a_timeout_with_its_phase(running: Cluster) -> None:
    with UdpPeer(silent) as peer:
        done = reqpool_command(running, "udp", peer.address, "hello", "--timeout", "0.3")
    assert done.returncode == 1
    assert "phase read" in done.stderr


def test_status_as_json_is_for_programs(running: Cluster) -> None:
    done = reqpool_command(running, "status", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["well"], report["ailments"]) == (0, True, [])
    assert report["workers"][0]["pid"] == running.worker_pids[0]
    assert len(report["workers"][0]["id"]) == 32
    for sample in (report["supervisor"], report["broker"], report["workers"][0]["sample"]):
        assert {"cpu_percent", "rss_bytes", "fds", "threads"} <= sample.keys()


def test_status_shows_origins_and_sessions(running: Cluster) -> None:
    with UdpPeer(echo, held=True) as peer, reqpool.Pool(running.url) as pool:
        future = pool.udp(peer.address, b"x", timeout=20)
        peer.wait_for_queries(1)
        shown = wait_until(
            lambda: (done := reqpool_command(running, "status")).stdout.count(peer.address) and done
        )
        peer.release()
        assert future.result(20) == b"x"
    row = next(line.split() for line in shown.stdout.splitlines() if peer.address in line)
    assert row[2] == "1"  # in flight
    assert str(os.getpid()) in shown.stdout


def test_dns_prints_records_as_dig_does(running: Cluster, knot: KnotServer) -> None:
    done = reqpool_command(running, "dns", "alias.example.test", "--server", knot.address)
    records = done.stdout.splitlines()
    assert done.returncode == 0
    assert records[0].split("\t") == ["alias.example.test.", "0", "IN", "CNAME", "www.example.test."]
    assert records[1].split("\t") == ["www.example.test.", "0", "IN", "A", "192.0.2.1"]
    assert records[2].startswith(";; NOERROR, 2 records, ")


def test_dns_of_a_name_that_does_not_exist_is_an_answer(running: Cluster, knot: KnotServer) -> None:
    done = reqpool_command(running, "dns", "nothing.example.test", "MX", "--server", knot.address)
    assert done.returncode == 0
    assert done.stdout.startswith(";; NXDOMAIN, 0 records")
