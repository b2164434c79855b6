"""The pool that a command uses, and the options of all commands."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING

from .. import runtime

if TYPE_CHECKING:
    import reqpool

DEFAULT_TIMEOUT_S = 5.0


def add_options(command: argparse.ArgumentParser, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
    """Add the options of every request."""
    command.add_argument(
        "--timeout", type=float, default=timeout_s, metavar="SECONDS", help="default: %(default)g"
    )
    command.add_argument(
        "--url", help="the pool (default: $REQPOOL_URL, this user's cluster, or a temporary one)"
    )


def pool(url: str | None) -> reqpool.Pool:
    """Open the pool for a command: the given one, this user's running one, or an embedded one."""
    logging.basicConfig(format="reqpool: %(message)s")  # a pool's warnings look like errors
    url = url or os.environ.get("REQPOOL_URL")
    if not url and runtime.read_lock(runtime.default_url()) is not None:
        url = runtime.default_url()
    import reqpool  # here, so that commands without a pool start faster

    return reqpool.Pool(url) if url else reqpool.Pool()


def show_bytes(data: bytes) -> None:
    """Write an answer unchanged; on a terminal, end the line."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    if data and sys.stdout.isatty() and not data.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
