"""``reqpool redis``: one Redis command, its reply as redis-cli prints it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from reqpool_contract.errors import RedisError

from . import secured
from .command_pool import add_options, pool

ESCAPES = {
    ord(character): f"\\{letter}" for character, letter in zip('"\\\n\r\t\a\b', '"\\nrtab', strict=True)
}
"""Those of redis-cli (sdscatrepr in sds.c)."""


def add_commands(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    redis = commands.add_parser("redis", help="send a Redis command and print the reply")
    redis.add_argument(
        "target", metavar="URL",
        help="redis://[USER@]HOST[:PORT][/DB], rediss:// (TLS), unix:///PATH, or the name of an upstream",
    )  # fmt: skip
    redis.add_argument(
        "command", metavar="COMMAND [ARG …]", nargs=argparse.REMAINDER,
        help="everything after the URL",
    )  # fmt: skip
    redis.add_argument(
        "--raw", action=argparse.BooleanOptionalAction,
        help="unquoted bytes, one value per line (default: unless standard output is a terminal)",
    )  # fmt: skip
    redis.add_argument("-3", dest="protocol", action="store_const", const=3, default=2, help="RESP3")
    secured.add_options(redis)
    add_options(redis)
    redis.set_defaults(run=run, usage=redis.error)


def run(options: argparse.Namespace) -> int:
    """Send the command and print the reply."""
    if not options.command:
        options.usage("a COMMAND is needed, e.g. GET key")
    name, *arguments = options.command
    # Bytes that are not UTF-8 come from the shell as lone surrogates (PEP 383).
    words = [argument.encode(errors="surrogateescape") for argument in arguments]
    with pool(options.url) as opened:
        reply = opened.redis(
            secured.target(options), name, *words,
            tls=secured.tls(options), protocol=options.protocol, timeout=options.timeout,
        ).result()  # fmt: skip
    raw = not sys.stdout.isatty() if options.raw is None else options.raw
    sys.stdout.buffer.write(b"\n".join(raw_lines(reply)) if raw else "\n".join(lines(reply)).encode())
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    return 0


def raw_lines(reply: Any) -> Iterator[bytes]:
    """Yield a reply for programs: one line for each value, bytes unchanged, nil as an empty line."""
    match reply:
        case None:
            yield b""
        case bytes():
            yield reply
        case bool():
            yield b"true" if reply else b"false"
        case dict():
            for key, value in reply.items():
                yield from raw_lines(key)
                yield from raw_lines(value)
        case list() | tuple() | set():
            for item in reply:
                yield from raw_lines(item)
        case RedisError():
            yield reply.text.encode()
        case _:
            yield str(reply).encode()


def lines(reply: Any) -> list[str]:
    """Return a reply for display: values with their types, elements numbered and indented."""
    match reply:
        case None:
            return ["(nil)"]
        case bytes():
            return [quoted(reply)]
        case bool():
            return ["(true)" if reply else "(false)"]
        case int():
            return [f"(integer) {reply}"]
        case float():
            return [f"(double) {reply:g}"]
        case dict():
            return numbered([(lines(key), lines(value)) for key, value in reply.items()], "#", "(empty hash)")
        case set():
            return numbered([(None, lines(item)) for item in reply], "~", "(empty set)")
        case list() | tuple():
            return numbered([(None, lines(item)) for item in reply], ")", "(empty array)")
        case RedisError():
            return [f"(error) {quoted(reply.text.encode())[1:-1]}"]
        case _:
            return [repr(reply)]


def numbered(items: list[tuple[list[str] | None, list[str]]], mark: str, empty: str) -> list[str]:
    """Return the elements of an aggregate, numbered, with their contents indented.

    Args:
        items: the lines of each element's key (None if it has no key) and value.
        mark: follows the number.
        empty: the text for an aggregate without elements.
    """
    if not items:
        return [empty]
    shown = []
    width = len(str(len(items)))
    for number, (key, value) in enumerate(items, 1):
        first = f"{number:>{width}}{mark} "
        if key is not None:
            first += f"{' '.join(key)} => "
        shown.append(first + value[0])
        shown += [" " * (width + 2) + line for line in value[1:]]
    return shown


def quoted(data: bytes) -> str:
    """Return bytes in quotes, all but printable ASCII as escapes, so that no terminal's cursor moves."""
    return '"' + "".join(escaped(byte) for byte in data) + '"'


def escaped(byte: int) -> str:
    """Return one byte within quotes."""
    if byte in ESCAPES:
        return ESCAPES[byte]
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
