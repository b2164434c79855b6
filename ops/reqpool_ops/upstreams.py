"""The demo's own upstreams on loopback: a DNS server, a UDP echo, a TCP line echo; one process.

``python -m reqpool_ops.upstreams --parent-pid N`` prints one JSON line with their addresses, and goes when
the parent goes. If Knot DNS is installed, it is the DNS server: a real one says more than our own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dnslib import AAAA, CNAME, MX, QTYPE, RR, TXT, A, DNSRecord
from dnslib.label import DNSLabel

ZONE = "demo.test"
"""Holds ``host-0`` to ``host-255`` (A and AAAA), ``www`` (CNAME), ``mail`` (MX), ``text`` (TXT)."""
HOSTS = 256

KNOT_CONFIG = """
server:
    rundir: "{folder}"
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: "{folder}"
log:
  - target: stderr
    any: error
template:
  - id: default
    storage: "{folder}"
    semantic-checks: off
zone:
  - domain: {zone}
    file: "{folder}/zone"
"""


def zone_records() -> list[RR]:
    """Return every record of the demo's zone."""
    records = []
    for number in range(HOSTS):
        name = f"host-{number}.{ZONE}"
        records.append(RR(name, QTYPE.A, rdata=A(f"192.0.2.{number}"), ttl=60))
        records.append(RR(name, QTYPE.AAAA, rdata=AAAA(f"2001:db8::{number:x}"), ttl=60))
    records.append(RR(f"www.{ZONE}", QTYPE.CNAME, rdata=CNAME(f"host-1.{ZONE}"), ttl=60))
    records.append(RR(f"mail.{ZONE}", QTYPE.MX, rdata=MX(f"host-2.{ZONE}", 10), ttl=60))
    records.append(RR(f"text.{ZONE}", QTYPE.TXT, rdata=TXT("hello from the demo"), ttl=60))
    return records


class DnsResponder(asyncio.DatagramProtocol):
    """Answers from the zone; each (name, type) is built once and then only gets the question's id."""

    def __init__(self) -> None:
        self._records: dict[DNSLabel, list[RR]] = {}
        for record in zone_records():
            self._records.setdefault(record.rname, []).append(record)
        self._built: dict[bytes, bytes] = {}

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Answer a question."""
        built = self._built.get(data[2:])
        if built is None:
            question = DNSRecord.parse(data)
            reply = question.reply()
            found = self._records.get(question.q.qname, [])
            for record in found:
                if record.rtype in (question.q.qtype, QTYPE.CNAME):
                    reply.add_answer(record)
            reply.header.rcode = 0 if found else 3
            built = self._built[data[2:]] = bytes(reply.pack())[2:]
        self._transport.sendto(data[:2] + built, address)


class UdpEcho(asyncio.DatagramProtocol):
    """Sends every datagram back."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Send it back."""
        self._transport.sendto(data, address)


class TcpEcho(asyncio.Protocol):
    """Sends all bytes back."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Send them back."""
        self._transport.write(data)


@contextlib.contextmanager
def knot() -> Iterator[str | None]:
    """Run Knot DNS with the demo's zone in a temporary folder; give its address, None if not installed."""
    program = shutil.which("knotd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    guard = shutil.which("setpriv")
    if program is None or guard is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="reqpool-demo-") as folder:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        soa = f"$ORIGIN {ZONE}.\n@ 60 SOA ns hostmaster 1 3600 600 86400 60\n@ 60 NS ns\nns 60 A 127.0.0.1\n"
        Path(folder, "zone").write_text(soa + "\n".join(map(str, zone_records())) + "\n")
        Path(folder, "knot.conf").write_text(KNOT_CONFIG.format(folder=folder, port=port, zone=ZONE))
        # PR_SET_PDEATHSIG by setpriv(1): a killed demo leaves no server behind either.
        process = subprocess.Popen([guard, "--pdeathsig", "KILL", program, "-c", f"{folder}/knot.conf"])
        try:
            yield f"127.0.0.1:{port}" if answers(port) else None
        finally:
            process.kill()
            process.wait()


def answers(port: int, tries: int = 50) -> bool:
    """Does a DNS server on loopback answer for the zone within some seconds?"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.1)
        probe.connect(("127.0.0.1", port))
        question = DNSRecord.question(f"host-1.{ZONE}", "A").pack()
        for _ in range(tries):
            try:
                probe.send(question)
                if DNSRecord.parse(probe.recv(4096)).rr:
                    return True
            except TimeoutError:
                continue
            except ConnectionRefusedError:
                time.sleep(0.1)  # it does not listen yet
    return False


async def serve(parent_pid: int, dns_address: str | None) -> None:
    """Serve until the parent has gone, or SIGTERM."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    parent = os.pidfd_open(parent_pid)
    loop.add_reader(parent, over.set)
    loop.add_signal_handler(signal.SIGTERM, over.set)
    local = ("127.0.0.1", 0)
    if dns_address is None:
        dns, _ = await loop.create_datagram_endpoint(DnsResponder, local_addr=local)
        dns_address = address_of(dns)
    udp, _ = await loop.create_datagram_endpoint(UdpEcho, local_addr=local)
    server = await loop.create_server(TcpEcho, *local)
    host, port = server.sockets[0].getsockname()
    print(json.dumps({"dns": dns_address, "udp": address_of(udp), "tcp": f"{host}:{port}"}), flush=True)
    await over.wait()


def address_of(transport: asyncio.BaseTransport) -> str:
    """Return ``host:port`` of a transport's own end."""
    host, port = transport.get_extra_info("sockname")
    return f"{host}:{port}"


def main() -> None:
    """Run the upstreams."""
    options = argparse.ArgumentParser(prog="python -m reqpool_ops.upstreams")
    options.add_argument("--parent-pid", type=int, required=True)
    parent_pid = options.parse_args().parent_pid
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the demo, which then ends us
    with knot() as dns_address:
        asyncio.run(serve(parent_pid, dns_address))


if __name__ == "__main__":
    main()
