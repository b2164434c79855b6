"""The demo's upstreams: what is not installed is said, our own stand in, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import dnslib
import pytest

from reqpool_ops.demo_upstreams import servers
from support.wait import wait_until

BARE = """
import sys
from reqpool_ops.demo_upstreams import __main__, servers
servers.PATH = ""
sys.argv[1:] = ["--parent-pid", sys.argv[1]]
__main__.main()
"""
"""The upstreams as on a machine without any server."""


def test_what_is_not_installed_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "PATH", "")
    with servers.running(tmp_path) as (targets, reasons):
        assert not targets
    assert reasons.keys() == servers.SERVERS.keys()
    assert reasons["redis"] == "redis-server is not installed (Debian: apt-get install redis-server)"


def test_a_server_that_does_not_start_is_named_with_its_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = servers.DemoServer(
        "sh", "dash", lambda place: "", lambda place, program: [program, "-c", "echo no; echo way"], b"", b"x"
    )
    monkeypatch.setattr(servers, "SERVERS", {"redis": broken})
    with servers.running(tmp_path) as (targets, reasons):
        assert (targets, reasons) == ({}, {"redis": "sh does not start: way"})


def test_our_own_serve_where_nothing_is_installed() -> None:
    command = [sys.executable, "-c", BARE, str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            report = json.loads(process.stdout.readline())
            assert report["targets"].keys() == {"dns", "udp", "tcp", "http"}
            assert set(report["servers"].values()) == {"our own"}
            assert report["reasons"].keys() == {"redis", "mysql"}
            question = bytes(dnslib.DNSRecord.question("host-7.demo.test").pack())
            reply = exchange(socket.SOCK_DGRAM, report["targets"]["dns"], question)
            assert str(dnslib.DNSRecord.parse(reply).a.rdata) == "192.0.2.7"
            http = report["targets"]["http"].removeprefix("http://")
            two = b"GET /one HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\n\r\n"
            answer = exchange(socket.SOCK_STREAM, http, two)
            assert answer.endswith(b"Content-Length: 3\r\n\r\n/2\n")
            assert b"Content-Length: 5\r\n\r\n/one\n" in answer
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10) == (b"", b"")
        assert process.returncode == 0


def test_they_go_with_their_parent() -> None:
    with subprocess.Popen(["sleep", "60"]) as parent:
        command = [sys.executable, "-c", BARE, str(parent.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            parent.kill()
            parent.wait()
            wait_until(lambda: process.poll() is not None)
            assert process.returncode == 0


def exchange(kind: Any, address: str, data: bytes) -> bytes:
    host, port = address.split(":")
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(5)
        sock.connect((host, int(port)))
        sock.send(data)
        return sock.recv(4096)
