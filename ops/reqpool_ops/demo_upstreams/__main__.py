"""``python -m reqpool_ops.demo_upstreams --parent-pid N``: run the demo's upstreams.

Prints one JSON line: ``targets``, the target of requests by kind; ``servers``, the program that serves it;
``reasons``, why a kind is missing. Ends when the parent ends, or on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from .own import DnsResponder, HttpResponder, TcpEcho, UdpEcho
from .servers import HOST, SERVERS, running

OWN = "our own"


async def serve(parent_pid: int, real: dict[str, str], reasons: dict[str, str]) -> None:
    """Serve the kinds that no real server serves, until the parent has ended.

    Args:
        parent_pid: the parent.
        real: the targets of the real servers, by kind.
        reasons: why the others are missing, by kind.
    """
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    parent = os.pidfd_open(parent_pid)
    loop.add_reader(parent, over.set)
    udp, _ = await loop.create_datagram_endpoint(UdpEcho, local_addr=(HOST, 0))
    tcp = await loop.create_server(TcpEcho, HOST, 0)
    own = {"udp": address(udp.get_extra_info("sockname")), "tcp": address(tcp.sockets[0].getsockname())}
    if "dns" not in real:
        dns, _ = await loop.create_datagram_endpoint(DnsResponder, local_addr=(HOST, 0))
        own["dns"] = address(dns.get_extra_info("sockname"))
    if "http" not in real:
        http = await loop.create_server(HttpResponder, HOST, 0)
        own["http"] = f"http://{address(http.sockets[0].getsockname())}"
    report = {
        "targets": own | real,
        "servers": dict.fromkeys(own, OWN) | {kind: SERVERS[kind].program for kind in real},
        "reasons": {kind: reason for kind, reason in reasons.items() if kind not in own},
    }
    with contextlib.suppress(BrokenPipeError):  # the parent has already ended
        os.write(sys.stdout.fileno(), json.dumps(report).encode() + b"\n")
    await over.wait()


def address(name: tuple[str, int]) -> str:
    """Return a socket's own address as ``host:port``."""
    host, port = name
    return f"{host}:{port}"


def stop(number: int, frame: object) -> None:
    """End from any point; a second signal does not interrupt the clean-up."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


def main() -> None:
    """Run the upstreams."""
    options = argparse.ArgumentParser(prog="python -m reqpool_ops.demo_upstreams")
    options.add_argument("--parent-pid", type=int, required=True)
    parent_pid = options.parse_args().parent_pid
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the demo
    signal.signal(signal.SIGTERM, stop)
    with (
        tempfile.TemporaryDirectory(prefix="reqpool-demo-") as folder,
        running(Path(folder)) as (targets, reasons),
    ):
        asyncio.run(serve(parent_pid, targets, reasons))


if __name__ == "__main__":
    main()
