"""The client half of http: bodies of requests."""

from __future__ import annotations

import email
import email.policy
import io
from pathlib import Path
from typing import Any

import pytest

from reqpool.kinds.http import KIND
from reqpool_contract.errors import UsageError
from reqpool_contract.payloads.http import HEADER
from support.http_request import URL, field, sent


@pytest.mark.parametrize(
    ("options", "body", "content_type"),
    [
        ({"data": b"\x00\xff"}, b"\x00\xff", []),
        ({"data": bytearray(b"ab")}, b"ab", []),
        ({"data": memoryview(b"ab")}, b"ab", []),
        ({"data": b""}, b"", []),
        ({"data": "caf\xe9"}, "café".encode(), ["text/plain; charset=utf-8"]),
        ({"data": io.BytesIO(b"file")}, b"file", []),
        ({"data": io.StringIO("file")}, b"file", []),
        ({"data": {"a": "b c", "d": [1, 2]}}, b"a=b+c&d=1&d=2", ["application/x-www-form-urlencoded"]),
        ({"data": [("a", "\xe9")]}, b"a=%C3%A9", ["application/x-www-form-urlencoded"]),
        ({"json": {"a": ["\xe9", None, 1.5]}}, '{"a":["é",null,1.5]}'.encode(), ["application/json"]),
        ({"json": []}, b"[]", ["application/json"]),
        ({"json": 0}, b"0", ["application/json"]),
        ({"data": b"{}", "headers": {"content-type": "application/ld+json"}}, b"{}", ["application/ld+json"]),
        ({"json": {}, "headers": {"content-type": "application/ld+json"}}, b"{}", ["application/ld+json"]),
    ],
)
def test_a_body_is_sent_with_its_length_and_type(options: Any, body: bytes, content_type: list[str]) -> None:
    _, fields, content = sent(method="POST", **options)
    assert content == body
    assert [value for name, value in fields if name == "Content-Length"] == [str(len(body))]
    assert field("content-type", method="POST", **options) == content_type


def parts(payload: bytes) -> list[tuple[dict[str, Any], str, bytes]]:
    """A multipart body as Python's mail package reads it: parameters of the disposition, type, content."""
    head, _, body = payload[HEADER.size :].partition(b"\r\n\r\n")
    content_type = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Type"))
    message = email.message_from_bytes(content_type + b"\r\n\r\n" + body, policy=email.policy.HTTP)
    assert message.is_multipart()
    assert not message.defects
    found = []
    for part in message.iter_parts():
        disposition = part["content-disposition"]
        assert disposition.content_disposition == "form-data"
        found.append(
            (dict(disposition.params), part.get_content_type(), bytes(part.get_payload(decode=True)))
        )
    return found


def test_files_are_a_multipart_body(tmp_path: Path) -> None:
    (tmp_path / "report.bin").write_bytes(b"\r\n--x\x00")
    with (tmp_path / "report.bin").open("rb") as file:
        _, payload, _ = KIND.encode(
            URL,
            "POST",
            data={"a": "1", "b": ["2", 3]},
            files=[
                ("plain", b"bytes"),
                ("text", ("caf\xe9.txt", "caf\xe9", "text/plain")),
                ("file", file),
                ("named", ("other.bin", io.BytesIO(b""))),
            ],
        )
    octets = "application/octet-stream"
    assert parts(payload) == [
        ({"name": "a"}, "text/plain", b"1"),
        ({"name": "b"}, "text/plain", b"2"),
        ({"name": "b"}, "text/plain", b"3"),
        ({"name": "plain", "filename": "plain"}, octets, b"bytes"),
        ({"name": "text", "filename": "café.txt"}, "text/plain", "café".encode()),
        ({"name": "file", "filename": "report.bin"}, octets, b"\r\n--x\x00"),
        ({"name": "named", "filename": "other.bin"}, octets, b""),
    ]


@pytest.mark.parametrize(
    ("file", "disposition", "content_type"),
    [
        ((None, "v"), 'form-data; name="f"', None),
        ([None, b"v"], 'form-data; name="f"', None),
        ((None, io.BytesIO(b"v"), "application/json"), 'form-data; name="f"', "application/json"),
        (("", b"v"), 'form-data; name="f"; filename=""', "application/octet-stream"),
        (("a.txt", b"v", None), 'form-data; name="f"; filename="a.txt"', "application/octet-stream"),
        ((b"a.txt", b"v"), 'form-data; name="f"; filename="a.txt"', "application/octet-stream"),
        (["a.txt", b"v", "text/plain"], 'form-data; name="f"; filename="a.txt"', "text/plain"),
    ],
)
def test_a_file_part_has_what_it_was_given(file: Any, disposition: str, content_type: str | None) -> None:
    head, _, content = sent(method="POST", files={"f": file})[2].partition(b"\r\n\r\n")
    lines = [f"Content-Disposition: {disposition}"]
    lines += [f"Content-Type: {content_type}"] if content_type else []
    assert head.decode().split("\r\n")[1:] == lines
    assert content.startswith(b"v\r\n--")


@pytest.mark.parametrize("files", [{}, [], ()])
def test_no_files_make_no_multipart_body(files: Any) -> None:
    assert field("content-type", method="POST", files=files) == []
    assert sent(method="POST", files=files, data={"a": "b"})[2] == b"a=b"
    assert field("content-type", method="POST", files=files, data={"a": "b"}) == [
        "application/x-www-form-urlencoded"
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("/a/b.txt", "b.txt"), (b"/a/b.txt", "b.txt"), ("<stdin>", "f"), ("<fdopen>", "f"), (5, "f"), ("", "f")],
)
def test_a_file_without_a_filename_is_called_as_on_its_disk(name: Any, shown: str) -> None:
    file = io.BytesIO(b"v")
    file.name = name
    ((about, _, _),) = parts(KIND.encode(URL, "POST", files=[("f", file)])[1])
    assert about == {"name": "f", "filename": shown}


def test_a_name_cannot_break_out_of_its_part() -> None:
    _, payload, _ = KIND.encode(URL, "POST", files={'a"\r\nX: y': ('b"\r\nc', b"")}, data={'d"\n': "e"})
    assert [about for about, _, _ in parts(payload)] == [
        {"name": "d%22%0A"},
        {"name": "a%22%0D%0AX: y", "filename": "b%22%0D%0Ac"},
    ]


def test_each_multipart_body_has_a_boundary_of_its_own() -> None:
    assert field("content-type", method="POST", files={"a": b""}) != field(
        "content-type", method="POST", files={"a": b""}
    )


class Unreadable:
    def read(self, size: int) -> int:
        return size


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": 5}, "data= must be bytes, str, something with read.*not int"),
        ({"data": object()}, "not object"),
        ({"data": (one for one in (b"a", b"b"))}, "not generator"),
        ({"data": "\ud800"}, "data= cannot be encoded as UTF-8"),
        ({"data": {"a": "\ud800"}}, "data= cannot be encoded as UTF-8"),
        ({"data": [("\ud800", "a")]}, "data= cannot be encoded as UTF-8"),
        ({"data": {"a": object()}}, "'a' has a value of type object"),
        ({"data": {"a": {"b": 1}}}, "'a' has a value of type dict"),
        ({"data": {5: "a"}}, "a name that is not a string: 5"),
        ({"data": [5]}, "not a pair: int"),
        ({"data": Unreadable()}, r"read\(\) returned int, not bytes"),
        ({"data": io.BytesIO(bytes(17 << 20))}, "more than 16777216 bytes to read"),
        ({"json": object()}, "json= cannot be encoded as JSON"),
        ({"json": {"a": b"b"}}, "json= cannot be encoded as JSON"),
        ({"json": float("nan")}, "json= cannot be encoded as JSON"),
        ({"json": "\ud800"}, "json= cannot be encoded as JSON"),
        ({"json": 1, "data": b""}, "json=, or data= and files=, not both"),
        ({"json": 1, "files": {}}, "json=, or data= and files=, not both"),
        ({"files": b"x"}, "files= must be a mapping or a list of pairs, not bytes"),
        ({"files": {"a": 5}}, "files= 'a' must be bytes"),
        ({"files": {"a": ("b",)}}, "files= 'a': give the content"),
        ({"files": {"a": (5, b"")}}, "files= 'a': a filename must be a string"),
        ({"files": {"\ud800": b""}}, "cannot be encoded as UTF-8"),
        ({"files": {"a": ("\udcff.txt", b"")}}, "cannot be encoded as UTF-8"),
        ({"files": {"a": ("b", b"", "text/plain\r\nX: y")}}, "header Content-Type"),
        ({"files": {5: b""}}, "a name that is not a string: 5"),
        ({"files": [5]}, "not a pair: int"),
        ({"files": {"a": b""}, "data": b"x"}, "data= must be a mapping or a list of pairs, not bytes"),
    ],
)
def test_wrong_bodies_are_refused_at_the_call(options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        KIND.encode(URL, "POST", **options)


def test_trace_has_no_body() -> None:
    with pytest.raises(UsageError, match="TRACE cannot have a body"):
        KIND.encode(URL, "TRACE", data=b"x")
