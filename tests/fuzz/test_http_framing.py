"""HTTP framing against h11: the same bytes, whole, byte by byte and cut at random, have the same outcome.

What is held:

* However the bytes are cut, the worker half comes to the same outcome: the same answer, or none, or an error.
* Where it comes to an answer, h11 does too, with the same status, fields and content, but for the two things
  that others take and h11 refuses (:data:`MORE_LENIENT`).
* Where h11 comes to an answer and the worker half refuses it, the answer is one of those that are refused on
  purpose (:data:`STRICTER`).
* Where the worker half takes a doubtful answer, the connection is not for another request.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, NamedTuple

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from reqpool.kinds.http_response import HttpResponse
from reqpool_contract.errors import BadResponse, Code
from reqpool_contract.payloads.http import FOLLOW, HEAD, HEADER
from reqpool_workers.protocols import Ask
from reqpool_workers.protocols.http import Http11

LIMIT = 10_000

STRICTER = re.compile(
    rb"(?i:\n(content-length|transfer-encoding):[^\n]*\n[ \t])"  # framing that is folded
    rb"|(?i:\ntransfer-encoding:)(?s:.*[^\r]\n)"  # bare LF in chunks and trailers, or so it may be
    rb"|(?m:^HTTP/(?!1\.[01]))"
    rb"|(?i:\n(content-length|transfer-encoding):)[^\n]*[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]"
    rb"|[0-9a-fA-F][ \t]*;[^\n]*\r\n"  # chunk extensions are checked, and so are trailers
    rb"|\r\n0[ \t]*\r\n[^\r]"
)
MORE_LENIENT = re.compile(rb"[!-~][ \t]+:|[\x0b\x0c]")
SPACE = re.compile(rb"[ \t]+")
DOUBTFUL = re.compile(
    rb"(?<!\r)\n|\n[!-9;-~]+[ \t]+:"
    rb"|(?i:\ncontent-length:(?s:.*)\ntransfer-encoding:|\ntransfer-encoding:(?s:.*)\ncontent-length:)"
)


class Outcome(NamedTuple):
    """How an answer ended: ``"answer"``, ``"none"`` or ``"error"``."""

    end: str
    answer: bytes = b""
    reusable: bool = False


def ours(pieces: list[bytes], method: str, flags: int = 0) -> Outcome:
    http = Http11("http://h:80", "h", "", 1 << 20)
    request = Ask()
    request.payload = (
        HEADER.pack(flags | (HEAD if method == "HEAD" else 0), LIMIT) + b"GET / HTTP/1.1\r\n\r\n"
    )
    http.send(request)
    events: list[Any] = []
    try:
        for piece in pieces:
            events += http.feed(piece)
            if events:
                break
        else:
            events += http.eof()
    except BadResponse:
        return Outcome("error")
    if not events:
        return Outcome("none")
    ((code, answer),) = events
    if code == Code.AGAIN:  # whether its body came along depends on the cuts
        answer = answer[: answer.index(b"\r\n\r\n")]
    else:
        assert code == Code.OK
    return Outcome("answer", answer, http.reusable)


def oracle(data: bytes, method: str) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
    """What h11 makes of it: status, fields, content; None if no whole answer."""
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    peer.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    peer.send(h11.EndOfMessage())
    status, fields, content = 0, [], b""
    try:
        if data:
            peer.receive_data(data)
        peer_closed = False
        while True:
            event = peer.next_event()
            if isinstance(event, h11.Response):
                status, fields = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, fields, content
            elif event in (h11.NEED_DATA, h11.PAUSED) and not peer_closed:
                peer.receive_data(b"")
                peer_closed = True
            elif event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return None
    except h11.RemoteProtocolError:
        return None


# --- bytes that look like answers, and nearly so ------------------------------------------------------

text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
content = st.binary(max_size=40) | st.just(b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
status_line = st.builds(
    lambda version, status, reason: f"HTTP/{version} {status} {reason}",
    st.sampled_from(["1.1", "1.1", "1.1", "1.0"]),
    st.sampled_from([200, 200, 200, 204, 206, 301, 302, 304, 404, 500]),
    text,
)
ordinary = st.builds(lambda name, value: f"X-{name}: {value}", st.sampled_from(["A", "B", "c"]), text)
special = st.sampled_from(
    [
        "Connection: close", "Connection: keep-alive", "Connection: upgrade", "Upgrade: h2c",
        "Location: /elsewhere", "X: folded\r\n \t line", "X: a\x01b", "X : y", "Content-Type: text/plain",
        "Date: Mon, 24 Nov 2025 09:00:00 GMT",
    ]
)  # fmt: skip


def chunked(parts: list[bytes], extension: str, trailers: list[str]) -> bytes:
    encoded = [b"%X%b\r\n%b\r\n" % (len(part), extension.encode(), part) for part in parts if part]
    return b"".join(encoded) + b"0\r\n" + "".join(f"{one}\r\n" for one in trailers).encode() + b"\r\n"


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """One answer, framed in one of the ways, perhaps after interim ones and before something else."""
    fields = draw(st.lists(ordinary | special, max_size=5))
    framing = draw(st.sampled_from(["length", "length twice", "chunked", "close", "lie", "both"]))
    body = draw(content)
    encoded = body
    if framing in ("length", "length twice", "both"):
        fields += [f"Content-Length: {len(body)}"] * (2 if framing == "length twice" else 1)
    elif framing == "lie":
        fields.append(f"Content-Length: {max(0, len(body) + draw(st.integers(-5, 5)))}")
    if framing in ("chunked", "both"):
        fields.append("Transfer-Encoding: chunked")
        parts = draw(st.lists(content, max_size=4))
        encoded = chunked(
            parts, draw(st.sampled_from(["", ";a=b", "  "])), draw(st.lists(ordinary, max_size=2))
        )
    fields = draw(st.permutations(fields))
    interim = draw(
        st.lists(st.sampled_from(["HTTP/1.1 100 Continue", "HTTP/1.1 103 Early Hints"]), max_size=2)
    )
    heads = [f"{line}\r\n\r\n" for line in interim]
    head = draw(st.sampled_from(["\r\n", "\r\n", "\n"])).join([draw(status_line), *fields, "", ""])
    rest = draw(st.sampled_from([b"", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"junk"]))
    return "".join([*heads, head]).encode("latin-1") + encoded + rest


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An answer in which some bytes were taken out, put in or exchanged."""
    data = bytearray(draw(answers()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        piece = draw(
            st.sampled_from([b"", b"\n", b"\r", b"\r\n", b" ", b":", b"\x00", b"5", b"-", b";", b"H"])
        )
        data[at : at + draw(st.integers(0, 2))] = piece
    return bytes(data)


anything = answers() | damaged() | st.binary(max_size=60)
methods = st.sampled_from(["GET", "GET", "GET", "HEAD"])


# --- what is held -----------------------------------------------------------------------------------


@given(
    data=anything,
    method=methods,
    cuts=st.lists(st.integers(0, 400), max_size=6),
    flags=st.sampled_from([0, FOLLOW]),
)
@example(data=b"HTTP/1.1 200 OK\r\n\r\n", method="GET", cuts=[], flags=0)
def test_however_bytes_are_cut_the_outcome_is_the_same(
    data: bytes, method: str, cuts: list[int], flags: int
) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(edges)]
    whole = ours([data] if data else [], method, flags)
    # Whether something came behind the answer is known only of what came with it.
    assert ours(pieces, method, flags)[:2] == whole[:2]
    assert ours([data[at : at + 1] for at in range(len(data))], method, flags)[:2] == whole[:2]


@given(data=anything, method=methods)
@example(data=b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello", method="GET")
@example(data=b"HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n", method="GET")
@example(
    data=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nHTTP/1.1 200 X",
    method="GET",
)
@example(
    data=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX:\r \r\n\r\n", method="GET"
)
def test_what_is_an_answer_is_one_for_h11_too(data: bytes, method: str) -> None:
    outcome = ours([data], method) if data else ours([], method)
    known = oracle(data, method)
    if outcome.reusable:
        assert not DOUBTFUL.search(data.partition(b"\r\n\r\n")[0]), outcome
    if outcome.end == "answer":
        if known is None:
            assert MORE_LENIENT.search(data), outcome
            return
        status, fields, body = known
        response = HttpResponse.of(outcome.answer, "", (), 0.0, LIMIT)
        assert response.status == status
        assert response.raw == body
        # A fold is one SP here; h11 leaves the white space round it.
        assert [
            (name.lower().encode("latin-1"), SPACE.sub(b" ", value.encode("latin-1")))
            for name, value in response.headers.all
        ] == [(name, SPACE.sub(b" ", value)) for name, value in fields]
    elif known is not None:
        assert outcome.end == "error", known
        assert STRICTER.search(data), known
