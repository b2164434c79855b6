"""``reqpool dns``: look up a name."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from .command_pool import add_options, pool

if TYPE_CHECKING:
    import reqpool


def add_commands(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    dns = commands.add_parser("dns", help="look up a name")
    dns.add_argument("name", metavar="NAME")
    dns.add_argument("type", metavar="TYPE", nargs="?", default="A")
    dns.add_argument("--server", metavar="HOST[:PORT]", help="default: the system's, from /etc/resolv.conf")
    add_options(dns)
    dns.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look up a name and print the answer's records as dig does."""
    with pool(options.url) as opened:
        started_s = time.perf_counter()
        future = opened.dns(options.name, options.type, server=options.server, timeout=options.timeout)
        show(future.result(), time.perf_counter() - started_s)
    return 0


def show(answer: reqpool.DnsAnswer, elapsed_s: float) -> None:
    """Print an answer as dig does: a line for each record, and a summary."""
    for record in answer.records:
        print(record)
    print(f";; {answer.rcode}, {len(answer.records)} records, {elapsed_s * 1000:.1f} ms")
