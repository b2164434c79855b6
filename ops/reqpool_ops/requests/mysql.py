"""``reqpool mysql``: one SQL statement; rows as tab-separated lines under a header."""

from __future__ import annotations

import argparse
from typing import Any

from . import secured
from .pool import add_options, pool

TIMEOUT_S = 30.0
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})
"""As ``mysql --batch`` has them, so that a row is a line and a column ends at a tab."""


def add_commands(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    mysql = commands.add_parser("mysql", help="run an SQL statement at MySQL or MariaDB and print its rows")
    mysql.add_argument(
        "target", metavar="URL",
        help="mysql://USER@HOST[:PORT][/DATABASE], mysqls:// (TLS), or the name of an upstream",
    )  # fmt: skip
    mysql.add_argument("sql", metavar="SQL", help="with PARAMs: %%s stands for each, %%%% for a percent sign")
    mysql.add_argument("params", metavar="PARAM", nargs="*", help="sent as a string, escaped by the pool")
    mysql.add_argument("--no-header", action="store_true", help="rows only")
    secured.add_options(mysql)
    add_options(mysql, TIMEOUT_S)
    mysql.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the statement and print what it gives."""
    with pool(options.url) as opened:
        result = opened.mysql(
            secured.target(options), options.sql, tuple(options.params) or None, tls=secured.tls(options),
            timeout=options.timeout,
        ).result()  # fmt: skip
    return show(result, header=not options.no_header)


def show(result: Any, *, header: bool) -> int:
    """Print rows to standard output, what else there is to say to standard error."""
    return 0


def cell(value: Any) -> str:
    """Return one value of a row: NULL for None, bytes in hex, text with its tabs and line ends as escapes."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"0x{value.hex().upper()}" if value else ""
    return str(value).translate(ESCAPES)
