"""``reqpool udp|tcp``: bytes to an upstream, and its answer."""

from __future__ import annotations

import argparse
import re
from typing import Any

from reqpool_contract.errors import UsageError

from ..report_values import text as printable
from .command_pool import add_options, pool, show_bytes

ESCAPES = {rb"\n": b"\n", rb"\r": b"\r", rb"\t": b"\t", rb"\0": b"\0", rb"\\": b"\\"}
ESCAPES_TEXT = r"\n, \r, \t, \0, \\, \xNN"
ESCAPE = re.compile(rb"\\(?:x[0-9a-fA-F]{2}|[0-9]+|[\x00-\x7f]|[\x80-\xff]+|\Z)")
"""One escape, valid or not. Digits are taken together: ``\\012`` is octal elsewhere, and invalid here."""


def add_commands(commands: Any) -> None:
    """Add both commands to argparse's subparsers."""
    udp = commands.add_parser("udp", help="send a datagram and print the answer")
    tcp = commands.add_parser("tcp", help="send bytes and print what comes back")
    for command in (udp, tcp):
        command.add_argument("address", metavar="HOST:PORT")
        command.add_argument("data", metavar="DATA", help=f"text, sent as UTF-8; {ESCAPES_TEXT} are escapes")
        add_options(command)
    ends = tcp.add_mutually_exclusive_group()
    ends.add_argument("--until", metavar="DATA", help=r"read up to and including these bytes, e.g. '\n'")
    ends.add_argument("--length", metavar="N", type=int, help="read this many bytes (default: until close)")
    udp.set_defaults(run=run_udp)
    tcp.set_defaults(run=run_tcp)


def unescape(text: str) -> bytes:
    r"""Return the bytes of a command-line argument: UTF-8, with escapes replaced.

    Raises:
        UsageError: if an escape is malformed.
    """
    # surrogateescape: bytes that are not UTF-8 come from the shell as lone surrogates (PEP 383).
    return ESCAPE.sub(unescaped, text.encode(errors="surrogateescape"))


def unescaped(match: re.Match[bytes]) -> bytes:
    """Return the byte of one escape; see :func:`unescape`."""
    escape = match[0]
    if escape in ESCAPES:
        return ESCAPES[escape]
    if escape[1:2] == b"x" and len(escape) == 4:
        return bytes.fromhex(escape[2:].decode())
    whole, wrong = (printable(part.decode(errors="replace")) for part in (match.string, escape))
    raise UsageError(f"{whole}: {wrong} is not an escape; use one of {ESCAPES_TEXT}")


def run_udp(options: argparse.Namespace) -> int:
    """Send a datagram."""
    data = unescape(options.data)
    with pool(options.url) as opened:
        show_bytes(opened.udp(options.address, data, timeout=options.timeout).result())
    return 0


def run_tcp(options: argparse.Namespace) -> int:
    """Send bytes over TCP."""
    data = unescape(options.data)
    until = None if options.until is None else unescape(options.until)
    with pool(options.url) as opened:
        future = opened.tcp(
            options.address, data, until=until, length=options.length, timeout=options.timeout
        )
        show_bytes(future.result())
    return 0
