"""Invariant: whatever coded content a server sends, what comes out is bounded, or it is a BadResponse."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from reqpool.kinds.http_content import decoded
from reqpool.kinds.http_response import HttpResponse
from reqpool_contract.errors import BadResponse

LIMIT = 5_000
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstandard.compress,
}  # fmt: skip
CONTENTS = st.binary(max_size=200) | st.integers(0, 20_000).map(bytes)


@pytest.mark.parametrize("coding", PACK)
@given(
    content=CONTENTS,
    again=CONTENTS,
    damage=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), max_size=3),
)
def test_damaged_content_is_bounded_or_refused(
    coding: str, content: bytes, again: bytes, damage: list[tuple[float, bytes]]
) -> None:
    packed = bytearray(PACK[coding](content) + (PACK[coding](again) if coding != "br" else b""))
    for place, piece in damage:
        at = int(place * len(packed))
        packed[at : at + len(piece)] = piece
    try:
        assert len(decoded(bytes(packed), coding, LIMIT)) <= LIMIT
    except BadResponse:
        assert damage or len(content + again) > LIMIT or coding == "deflate"


@given(head=st.binary(max_size=200), body=st.binary(max_size=50))
def test_any_head_can_be_looked_at(head: bytes, body: bytes) -> None:
    response = HttpResponse(b"HTTP/1.1 200 " + head, body)
    assert response.headers.keys() >= {name for name, _ in response.headers.all[:1]}
    assert isinstance(response.reason, str)
    for look in (lambda: response.text, response.json):
        try:
            look()
        except BadResponse:
            continue
