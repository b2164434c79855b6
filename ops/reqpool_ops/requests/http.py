"""``reqpool http``: one HTTP request; options that curl also has have the same names."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from reqpool_contract.errors import UsageError
from reqpool_contract.masking import without_password

from ..report_values import text as printable
from . import secured
from .command_pool import add_options, pool, show_bytes

if TYPE_CHECKING:
    import reqpool

TIMEOUT_S = 30.0
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


def add_commands(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    http = commands.add_parser("http", help="send an HTTP request and print the answer's body")
    http.add_argument(
        "method",
        metavar="METHOD",
        nargs="?",
        help="default: GET, or POST with DATA; must come before the URL",
    )
    http.add_argument("target", metavar="URL", help="http:// or https://, or NAME/PATH of an upstream")
    http.add_argument("-X", "--request", metavar="METHOD", help="the same, in any position")
    http.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", action="append", default=[], help="may be repeated"
    )
    http.add_argument(
        "-d", "--data", metavar="DATA", action="append",
        help="the body; @FILE: the file's contents, @-: standard input; repeated: joined with '&'",
    )  # fmt: skip
    http.add_argument("--json", action="store_true", help="send DATA as JSON and ask for JSON")
    http.add_argument("-u", "--user", metavar="USER[:PASSWORD]", help="basic authorization")
    http.add_argument("-i", "--include", action="store_true", help="also print status and headers")
    http.add_argument("-o", "--output", metavar="FILE", help="write the body to FILE")
    http.add_argument("-f", "--fail", action="store_true", help="treat a status of 400 or more as an error")
    http.add_argument("--no-redirect", action="store_true", help="do not follow redirects")
    http.add_argument("--max-bytes", metavar="N", type=int, help="longest body (default: 16 MiB)")
    secured.add_options(http)
    add_options(http, TIMEOUT_S)
    http.set_defaults(run=run, usage=http.error)


def run(options: argparse.Namespace) -> int:
    """Send the request and show the answer."""
    if options.method and options.request:
        options.usage("give METHOD before the URL or after -X, not both")
    data = body(options)
    method = options.method or options.request or ("GET" if data is None else "POST")
    target, auth = credentials(options)
    bound = {} if options.max_bytes is None else {"max_bytes": options.max_bytes}
    with pool(options.url) as opened:
        future = opened.http(
            method, target, headers=headers(options, data), data=data, auth=auth, tls=secured.tls(options),
            follow_redirects=not options.no_redirect, timeout=options.timeout, **bound,
        )  # fmt: skip
        answer = future.result()
    if options.fail:
        answer.raise_for_status()
    show(answer, options.include or method.upper() == "HEAD", options.output)
    return 0


def body(options: argparse.Namespace) -> bytes | None:
    """Return the body, None if there is none."""
    return None if options.data is None else b"&".join(part(given) for given in options.data)


def part(given: str) -> bytes:
    """Return the bytes of one ``--data``."""
    if given == "@-":
        return sys.stdin.buffer.read()
    if given.startswith("@"):
        return secured.contents(given[1:])
    return given.encode(errors="surrogateescape")


def headers(options: argparse.Namespace, data: bytes | None) -> list[tuple[str, str]]:
    """Return the headers to send; given ones replace those that the body suggests.

    Raises:
        UsageError: if one has no colon, or with ``--json`` the body is not JSON.
    """
    given = []
    for line in options.header:
        name, colon, value = line.partition(":")
        if not colon:
            shown = printable(without_password(line.partition(" ")[0]))
            raise UsageError(f"{shown!r} is not a header; write it like 'Accept: text/plain'")
        given.append((name.strip(), value.strip()))
    suggested = []
    if options.json:
        suggested.append(("Accept", JSON))
    if data is not None:
        suggested.append(("Content-Type", JSON if options.json else FORM))
        if options.json:
            check_json(data)
    names = {name.lower() for name, _ in given}
    return given + [(name, value) for name, value in suggested if name.lower() not in names]


def check_json(data: bytes) -> None:
    """Check that data is JSON.

    Raises:
        UsageError: if it is not.
    """
    try:
        json.loads(data)
    except ValueError as error:
        raise UsageError(f"--json: the data is not JSON: {printable(str(error))}") from error


def credentials(options: argparse.Namespace) -> tuple[str, tuple[str, str] | str | None]:
    """Return the URL and the credentials: (user, password), a bearer token, or None.

    A password is sent only with a user; without one, the content of a password file is a token. The
    environment variable alone is not sent as a token: it may be meant for another command's upstream.
    """
    target: str = options.target
    if options.user is not None:
        user, colon, given = options.user.partition(":")
        return target, (user, given if colon else secured.password(options) or "")
    if secured.names_user(target):
        return secured.with_password(target, secured.password(options)), None
    return target, None if options.password_file is None else secured.password(options)


def show(answer: reqpool.HttpResponse, head: bool, output: str | None) -> None:
    """Print an answer.

    Args:
        answer: the answer.
        head: whether to print status and headers, too.
        output: file for the body; None for standard output.

    Raises:
        UsageError: if the file cannot be written.
    """
    if head:
        print(f"HTTP/1.1 {answer.status} {printable(answer.reason)}".rstrip())
        for name, value in answer.headers.all:
            print(f"{printable(name)}: {printable(value)}")
        print()
    if output is None or output == "-":
        show_bytes(answer.content)
        return
    try:
        with open(output, "wb") as file:
            file.write(answer.content)
    except (OSError, ValueError) as error:
        raise UsageError(f"{output}: {getattr(error, 'strerror', None) or error}") from error
