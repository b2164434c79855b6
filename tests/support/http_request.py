"""What the client half of http would send, taken apart."""

from __future__ import annotations

from typing import Any

from reqpool.kinds.http import KIND
from reqpool_contract.payloads.http import HEADER

URL = "http://127.0.0.1:8080/x"


def split(payload: bytes) -> tuple[str, list[tuple[str, str]], bytes]:
    """A payload's request line, fields and body."""
    head, _, body = payload[HEADER.size :].partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    pairs = [(name, value) for name, _, value in (field.partition(": ") for field in fields)]
    return line, pairs, body


def sent(url: str = URL, method: str = "GET", **options: Any) -> tuple[str, list[tuple[str, str]], bytes]:
    return split(KIND.encode(url, method, **options)[1])


def field(name: str, url: str = URL, method: str = "GET", **options: Any) -> list[str]:
    return [value for found, value in sent(url, method, **options)[1] if found.lower() == name.lower()]


def flags(url: str = URL, method: str = "GET", **options: Any) -> int:
    number: int = HEADER.unpack_from(KIND.encode(url, method, **options)[1])[0]
    return number
