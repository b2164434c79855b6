"""Passwords and TLS on the command line.

Every user of a machine can see every process's arguments (ps), so a password in the URL is for tests only;
otherwise it comes from ``$REQPOOL_PASSWORD``, which only the same user can see, or from a file.
"""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from reqpool_contract.errors import UsageError
from reqpool_contract.masking import without_password

if TYPE_CHECKING:
    from reqpool_contract.tls_settings import Tls

PASSWORD_VARIABLE = "REQPOOL_PASSWORD"

_URL = re.compile(r"([a-z]+://)(?:([^/?#]*)@)?(.*)", re.DOTALL | re.IGNORECASE)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of kinds with passwords and TLS."""
    command.add_argument(
        "--password-file",
        metavar="FILE",
        help=f"its first line is the password (default: ${PASSWORD_VARIABLE}; others can see one in the URL)",
    )
    tls = command.add_argument_group("TLS")
    tls.add_argument("--ca", metavar="FILE", help="authorities to trust, PEM (default: the system's)")
    tls.add_argument("--cert", metavar="FILE", help="client certificate, PEM")
    tls.add_argument("--key", metavar="FILE", help="its key, PEM (default: in the same file)")
    tls.add_argument("--insecure", action="store_true", help="accept any certificate")


def tls(options: argparse.Namespace) -> Tls | None:
    """Return the TLS settings of the options; None if there are none."""
    if not (options.ca or options.cert or options.key or options.insecure):
        return None
    from reqpool_contract.tls_settings import Tls  # here, so that other commands start faster

    return Tls(ca=options.ca, cert=options.cert, key=options.key, verify=not options.insecure)


def password(options: argparse.Namespace) -> str | None:
    """Return the password from the file or the environment; None if there is none.

    Raises:
        UsageError: if the file cannot be read.
    """
    if options.password_file is None:
        return os.environ.get(PASSWORD_VARIABLE)
    # Its name is not shown: it may be the password itself, as --password=… abbreviates this option.
    data = contents(options.password_file, "--password-file")
    try:
        return data.decode().partition("\n")[0].removesuffix("\r")
    except UnicodeError as error:
        raise UsageError("--password-file: not UTF-8") from error


def contents(path: str, shown: str | None = None) -> bytes:
    """Return a file's contents.

    Args:
        path: the file's.
        shown: its name in errors; None for its path.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{shown or path}: {why}") from error


def target(options: argparse.Namespace) -> str:
    """Return the URL with the password from the options or the environment.

    Raises:
        UsageError: if the file cannot be read, or is given with the name of an upstream.
    """
    given: str = options.target
    if options.password_file is not None and "://" not in given:
        raise UsageError(f"{without_password(given)!r} is the name of an upstream; the pool has its password")
    return with_password(given, password(options))


def names_user(url: str) -> bool:
    """Return whether a URL has a user and no password."""
    found = _URL.fullmatch(url)
    return found is not None and bool(found[2]) and ":" not in found[2]


def with_password(url: str, secret: str | None) -> str:
    """Return a URL with a password in it; one that already has a password is returned unchanged.

    So is the name of an upstream in ``reqpool.toml``: the pool has its password.
    """
    found = _URL.fullmatch(url)
    if secret is None or found is None or (found[2] and ":" in found[2]):
        return url
    return f"{found[1]}{found[2] or ''}:{quote(secret, safe='')}@{found[3]}"
