from __future__ import annotations

import pytest

import reqpool
from reqpool_ops.requests.dns import show


def test_an_odd_record_is_printed_as_it_came_and_hides_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    owner, ttl = b"\xc0\x0c", b"\x00\x00\x00\x3c"
    records = (
        owner + b"\x00\x10\x00\x01" + ttl + b"\x00\x02\x05a",
        owner + b"\x00\x10\x00\x01" + ttl + b'\x00\x06\x01\x1b\x03a"b',
        owner + b"\x00\x35\x00\x01" + ttl + b"\x00\x04\x03\x01\x01\xab",
        owner + b"\x00\x01\x00\x03" + ttl + b"\x00\x04\x7f\x00\x00\x01",
    )
    head = b"\x00\x00\x81\x80\x00\x01\x00\x04\x00\x00\x00\x00\x01x\x04test\x00\x00\x10\x00\x01"
    show(reqpool.DnsAnswer(head + b"".join(records)), 0.001)
    assert capsys.readouterr().out.splitlines() == [
        "x.test.\t60\tIN\tTYPE16\t\\# 2 0561",
        'x.test.\t60\tIN\tTXT\t"\\027" "a\\"b"',
        "x.test.\t60\tIN\tSMIMEA\t3 1 1 AB",
        ";; NOERROR, 3 records, 1.0 ms",
    ]
