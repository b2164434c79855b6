"""One request from the command line: ``reqpool dns|http|redis|mysql|udp|tcp``, a file for each kind."""

from __future__ import annotations

from typing import Any

from .dns import add_commands as add_dns
from .http import add_commands as add_http
from .mysql import add_commands as add_mysql
from .raw import add_commands as add_raw
from .redis import add_commands as add_redis


def add_commands(commands: Any) -> None:
    """Add one parser per kind to argparse's subparsers."""
    for add in (add_dns, add_http, add_redis, add_mysql, add_raw):
        add(commands)
