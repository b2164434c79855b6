"""``reqpool dns|udp|tcp``: one request from the command line."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from typing import Any

from dnslib import QTYPE

import reqpool

from . import runtime
from .reading import text as printable

ESCAPES = {rb"\n": b"\n", rb"\r": b"\r", rb"\t": b"\t", rb"\0": b"\0", rb"\\": b"\\"}
ESCAPES_TEXT = r"\n, \r, \t, \0, \\, \xNN"
ESCAPE = re.compile(rb"\\(?:x[0-9a-fA-F]{2}|[0-9]+|[\x00-\x7f]|[\x80-\xff]+|\Z)")
"""One escape, right or wrong. Digits go together: ``\\012`` would be octal elsewhere, and is wrong here."""


def add_commands(commands: Any) -> None:
    """Add one parser per kind to argparse's subparsers."""
    dns = commands.add_parser("dns", help="look up a name")
    dns.add_argument("name", metavar="NAME")
    dns.add_argument("type", metavar="TYPE", nargs="?", default="A")
    dns.add_argument("--server", metavar="HOST[:PORT]", help="default: the system's, from /etc/resolv.conf")
    dns.set_defaults(run=run_dns)

    udp = commands.add_parser("udp", help="send a datagram and print the answer")
    tcp = commands.add_parser("tcp", help="send bytes and print what comes back")
    for command in (udp, tcp):
        command.add_argument("address", metavar="HOST:PORT")
        command.add_argument(
            "data", metavar="DATA", help=f"text, sent as UTF-8; {ESCAPES_TEXT} stand for bytes"
        )
    ends = tcp.add_mutually_exclusive_group()
    ends.add_argument("--until", metavar="DATA", help=r"read up to and with these bytes, e.g. '\n'")
    ends.add_argument("--length", metavar="N", type=int, help="read this many bytes (default: until close)")
    udp.set_defaults(run=run_udp)
    tcp.set_defaults(run=run_tcp)

    for command in (dns, udp, tcp):
        command.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS")
        command.add_argument(
            "--url", help="the pool (default: $REQPOOL_URL, this user's cluster, or one of its own)"
        )


def pool(url: str | None) -> reqpool.Pool:
    """Open the pool a command is to use: the one named, this user's running one, or an embedded one."""
    url = url or os.environ.get("REQPOOL_URL")
    if not url and runtime.read_lock(runtime.default_url()) is not None:
        url = runtime.default_url()
    return reqpool.Pool(url) if url else reqpool.Pool()


def unescape(text: str) -> bytes:
    r"""Return the bytes a command-line argument stands for: UTF-8, but for the escapes.

    Raises:
        UsageError: if an escape is malformed.
    """
    # surrogateescape: bytes that are no UTF-8 come from the shell as lone surrogates (PEP 383).
    return ESCAPE.sub(unescaped, text.encode(errors="surrogateescape"))


def unescaped(match: re.Match[bytes]) -> bytes:
    """Return the byte that one escape stands for; see :func:`unescape`."""
    escape = match[0]
    if escape in ESCAPES:
        return ESCAPES[escape]
    if escape[1:2] == b"x" and len(escape) == 4:
        return bytes.fromhex(escape[2:].decode())
    whole, wrong = (printable(part.decode(errors="replace")) for part in (match.string, escape))
    raise reqpool.UsageError(f"{whole}: {wrong} is no escape; there are {ESCAPES_TEXT}")


def run_dns(options: argparse.Namespace) -> int:
    """Look up a name and print the answer's records as dig does."""
    with pool(options.url) as opened:
        started_s = time.perf_counter()
        future = opened.dns(options.name, options.type, server=options.server, timeout=options.timeout)
        return show_dns(future.result(), time.perf_counter() - started_s)


def run_udp(options: argparse.Namespace) -> int:
    """Send a datagram."""
    data = unescape(options.data)
    with pool(options.url) as opened:
        future = opened.udp(options.address, data, timeout=options.timeout)
        return show_bytes(future.result())


def run_tcp(options: argparse.Namespace) -> int:
    """Send bytes over TCP."""
    data = unescape(options.data)
    until = None if options.until is None else unescape(options.until)
    with pool(options.url) as opened:
        future = opened.tcp(
            options.address, data, until=until, length=options.length, timeout=options.timeout
        )
        return show_bytes(future.result())


def show_dns(answer: reqpool.DnsAnswer, elapsed_s: float) -> int:
    """Print an answer as dig does: a line per record, and one on the whole."""
    for record in answer.message.rr:
        print(record.rname, record.ttl, "IN", QTYPE.get(record.rtype), record.rdata, sep="\t")
    print(f";; {answer.rcode}, {len(answer.records)} records, {elapsed_s * 1000:.1f} ms")
    return 0


def show_bytes(data: bytes) -> int:
    """Write an answer as it came; on a terminal, end the line."""
    sys.stdout.buffer.write(data)
    if sys.stdout.isatty() and not data.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.flush()
    return 0
