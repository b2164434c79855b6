"""``reqpool mysql``: one SQL statement; rows as tab-separated lines under a header."""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..report_values import text as printable
from . import secured
from .command_pool import add_options, pool

if TYPE_CHECKING:
    import reqpool

TIMEOUT_S = 30.0
CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
ESCAPES = (
    {code: f"\\x{code:02x}" for code in CONTROLS}
    | {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}  # bytes that are not UTF-8
    | str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})
)
"""Those of ``mysql --batch``, so that a row is a line and a column ends at a tab, and of all other control
characters, so that no value moves a terminal's cursor."""


def add_commands(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    mysql = commands.add_parser("mysql", help="run an SQL statement at MySQL or MariaDB and print its rows")
    mysql.add_argument(
        "target", metavar="URL",
        help="mysql://USER@HOST[:PORT][/DATABASE], mysqls:// (TLS), or the name of an upstream",
    )  # fmt: skip
    mysql.add_argument(
        "sql", metavar="SQL", help="with PARAMs: %%s for each of them, %%%% for a percent sign"
    )
    mysql.add_argument("params", metavar="PARAM", nargs="*", help="sent as a string, escaped by the pool")
    mysql.add_argument("--no-header", action="store_true", help="rows only")
    secured.add_options(mysql)
    add_options(mysql, TIMEOUT_S)
    mysql.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the statement and print its results."""
    with pool(options.url) as opened:
        result = opened.mysql(
            secured.target(options), options.sql, tuple(options.params) or None, tls=secured.tls(options),
            timeout=options.timeout,
        ).result()  # fmt: skip
        show(result, header=not options.no_header)
    return 0


def show(result: reqpool.MysqlResult, *, header: bool) -> None:
    """Print rows to standard output, and other effects of the statement to standard error.

    Args:
        result: with all its further results; those with rows are separated by an empty line.
        header: whether to print the columns' names above the rows.
    """
    tables = [one for one in result.sets if one.columns]
    for number, one in enumerate(tables):
        if number:
            print()
        if header:
            print(*(name.translate(ESCAPES) for name in one.columns), sep="\t")
        for row in one.rows:
            print(*map(cell, row), sep="\t")
    sys.stdout.flush()
    for one in result.sets:
        said = remark(one)
        if said:
            print(said, file=sys.stderr)


def remark(result: reqpool.MysqlResult) -> str:
    """Describe the effects of a statement other than rows; empty if there are none."""
    parts = [] if result.columns else [f"{result.affected} rows affected"]
    if result.last_id:
        parts.append(f"last id {result.last_id}")
    if result.warnings:
        parts.append(f"{result.warnings} warnings")
    if result.info:
        parts.append(printable(result.info))
    return ", ".join(parts)


def cell(value: Any) -> str:
    """Return one value of a row: NULL for None, bytes in hex, text with control characters as escapes."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"0x{value.hex().upper()}" if value else ""
    if isinstance(value, timedelta):
        return time(value)
    return str(value).translate(ESCAPES)


def time(value: timedelta) -> str:
    """Return a TIME as the server writes it: ``-838:59:59.000001``."""
    microseconds = value // timedelta(microseconds=1)
    seconds, fraction = divmod(abs(microseconds), 1_000_000)
    shown = f"{'-' if microseconds < 0 else ''}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{shown}.{fraction:06}" if fraction else shown
