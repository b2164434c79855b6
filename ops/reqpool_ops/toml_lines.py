"""On which line of a TOML file each key is. Uses no I/O and no clock.

tomllib does not report it, nor does tomlkit (its issue 55). But TOML is a sequence of statements, each of
which ends with a line: the first one at which the text since the last statement parses. So tomllib finds
them, and nothing here needs to know about quotes, dots or brackets.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

MAX_DEPTH = 8
"""The depth to which paths are looked for."""
MAX_STATEMENT_LINES = 500
"""The longest statement: each of its lines is parsed with all the lines before it, which takes 0.3 s in
total."""


def lines(text: str) -> dict[tuple[str, ...], int]:
    """Find the line of every table and key.

    Args:
        text: that of a whole file that tomllib accepts, with ``\\n`` at the line ends.

    Returns:
        Line numbers from 1, of the statement's beginning, by path; none of what follows a statement of over
        ``MAX_STATEMENT_LINES``.
    """
    found: dict[tuple[str, ...], int] = {}
    header: tuple[str, ...] = ()
    statement: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        statement.append(line)
        try:
            tables = tomllib.loads("\n".join(statement))
        except tomllib.TOMLDecodeError:
            if len(statement) == MAX_STATEMENT_LINES:
                break
            continue  # a string or an array over several lines
        begun = number - len(statement) + 1
        is_header = line.lstrip(" \t").startswith("[") and len(statement) == 1
        paths = list(_paths(tables))
        for path in paths:
            found.setdefault(path if is_header else header + path, begun)
        if is_header:
            header = paths[-1]
        statement = []
    return found


def line_of(found: Mapping[tuple[str, ...], int], path: tuple[str, ...]) -> int:
    """Return a key's line; that of the table it should be in if it is missing; otherwise 1."""
    while path and path not in found:
        path = path[:-1]
    return found.get(path, 1)


def _paths(tables: Any, depth: int = MAX_DEPTH) -> Iterator[tuple[str, ...]]:
    """Yield every path in tables, each before those below it."""
    if isinstance(tables, list):  # [[an array of tables]]: its items count as one
        tables = tables[0] if tables else {}
    if isinstance(tables, dict) and depth:
        for name, below in tables.items():
            yield (name,)
            yield from ((name, *path) for path in _paths(below, depth - 1))
